//! Ports for servers that a test starts as processes of their own, and must name before they listen.
//!
//! A port that the system gives out by itself may be the other end of somebody's connection a moment later. These lie below those, and
//! each is one test's until its process ends, by a lock on a file.

use std::{
    env, fs,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Mutex,
};

/// Below what the system gives out by itself (`net.ipv4.ip_local_port_range` begins at 32768), and above what servers are known by.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// An address of 127.0.0.1 that nobody listens on, and that no other test is given while this process runs.
pub(crate) fn free_address() -> SocketAddr {
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = env::temp_dir().join("ghost-live-test-ports");
    fs::create_dir_all(&folder).unwrap();
    for port in PORTS {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let lock = File::create(folder.join(port.to_string())).unwrap();
        if lock.try_lock().is_ok() && TcpListener::bind(address).is_ok() {
            HELD.lock().unwrap().push(lock);
            return address;
        }
    }
    panic!("no port of {PORTS:?} is free");
}
