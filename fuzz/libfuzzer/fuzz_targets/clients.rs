#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ghost_live_fuzz::guard::clients(bytes));
