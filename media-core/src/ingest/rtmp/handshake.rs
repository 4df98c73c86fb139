//! The plain handshake (section 5.2): C0 and C1 are answered with S0, S1 and S2; C2 is read and not looked at.
//!
//! The digest form that Flash clients used is not spoken: FFmpeg, which offers it, falls back to the plain one when S1 has version 0.

/// Bytes of C1, C2, S1 and S2 each.
pub const PACKET_BYTES: usize = 1_536;

/// C0: the protocol version.
pub const VERSION: u8 = 3;

/// S0, S1 and S2, in answer to C1. `seed` varies S1's random bytes; nothing depends on their quality.
pub fn answer(c1: &[u8; PACKET_BYTES], seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + 2 * PACKET_BYTES);
    out.push(VERSION);
    // S1: time 0 and version 0, then random bytes.
    out.extend_from_slice(&[0; 8]);
    let mut state = seed | 1;
    while out.len() < 1 + PACKET_BYTES {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_be_bytes());
    }
    // S2: an echo of C1. Its second field is the time at which C1 was read; 0 is S1's own.
    out.extend_from_slice(&c1[..4]);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&c1[8..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_echoes_the_clients_random_bytes() {
        let mut c1 = [7; PACKET_BYTES];
        c1[..8].copy_from_slice(&[1, 2, 3, 4, 0, 0, 0, 0]);
        let answer = answer(&c1, 5);
        assert_eq!(answer.len(), 1 + 2 * PACKET_BYTES);
        assert_eq!(answer[0], VERSION);
        assert_eq!(answer[1..9], [0; 8]);
        assert_eq!(answer[1 + PACKET_BYTES..], c1);
    }
}
