//! What of an offer, an answer or a fragment the edge has to know: that it is text in lines of SDP (RFC 8866 section 5), and whose ICE session
//! it is about (RFC 8839 section 5.4). Whether it is a good one media-core decides.

/// The text, if each of its lines is one of SDP: a letter, `=`, and a value without control characters, so that it is no longer in JSON than
/// twice its bytes.
pub fn read(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let line_ok = |line: &str| {
        let mut bytes = line.bytes();
        let letter = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
        letter && bytes.next() == Some(b'=') && bytes.all(|b| !b.is_ascii_control() || b == b'\t')
    };
    let mut lines = text.lines().filter(|line| !line.is_empty()).peekable();
    lines.peek()?;
    lines.all(line_ok).then_some(text)
}

/// The ICE user fragment: the first that there is. Bundled media have one.
pub fn ufrag(text: &str) -> Option<&str> {
    let ufrag = text
        .lines()
        .find_map(|line| line.strip_prefix("a=ice-ufrag:"))?
        .trim();
    let ice_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    ((4..=256).contains(&ufrag.len()) && ufrag.bytes().all(ice_char)).then_some(ufrag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junk_is_no_sdp() {
        for junk in [
            &b""[..],
            b"\r\n\r\n",
            b"hello",
            b"v=0\r\nhello\r\n",
            b"V=0\r\n",
            b"=0\r\n",
            b"v=0\r\no=\x00\r\n",
            b"v=0\r\no=\x1b[2J\r\n",
            b"\xff\xfe",
            b"{\"sdp\":\"v=0\"}",
        ] {
            assert_eq!(read(junk), None, "{junk:?}");
        }
        assert!(read("v=0\r\ns=größer\r\nt=0 0\n".as_bytes()).is_some());
    }

    #[test]
    fn a_user_fragment_is_what_can_stand_in_a_header() {
        assert_eq!(ufrag("v=0\r\na=ice-ufrag:Ab+/9\r\n"), Some("Ab+/9"));
        for bad in [
            "a=ice-ufrag:abc",
            "a=ice-ufrag:ab\"cd",
            "a=ice-pwd:abcdefgh",
            "s=a=ice-ufrag:abcd",
        ] {
            assert_eq!(ufrag(bad), None, "{bad}");
        }
    }
}
