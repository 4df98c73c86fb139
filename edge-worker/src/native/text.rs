//! A text with its compressed forms, each made when it is first asked for and shared by everybody after that.

use std::{
    io::{Read, Write},
    sync::OnceLock,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// Shorter texts go as they are.
const WORTH_IT: usize = 512;

/// How an answer's body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Brotli,
}

impl Coding {
    /// The best one that the request takes.
    pub(super) fn negotiate(headers: &HeaderMap) -> Self {
        let mut best = Self::Identity;
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            for item in value.to_str().unwrap_or_default().split(',') {
                let mut fields = item.split(';').map(str::trim);
                let name = fields.next().unwrap_or_default();
                let refused = fields.any(|f| matches!(f, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
                match name {
                    _ if refused => {}
                    "br" => return Self::Brotli,
                    "gzip" | "x-gzip" => best = Self::Gzip,
                    _ => {}
                }
            }
        }
        best
    }

    /// `Content-Encoding`.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Brotli => Some("br"),
        }
    }
}

/// A text and its compressed forms.
#[derive(Debug, Default)]
pub(super) struct Text {
    plain: Bytes,
    gzip: OnceLock<Option<Bytes>>,
    brotli: OnceLock<Option<Bytes>>,
    etag: OnceLock<String>,
}

impl Text {
    pub(super) fn new(plain: Bytes) -> Self {
        Self {
            plain,
            ..Self::default()
        }
    }

    /// `ETag`: weak, for the compressed forms are the same file.
    pub(super) fn etag(&self) -> &str {
        self.etag.get_or_init(|| {
            let digest = Sha256::digest(&self.plain);
            let digest: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
            format!("W/\"{digest}\"")
        })
    }

    /// The body as it is.
    pub(super) fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The body in that coding, or as it is where compressing it does not pay.
    pub(super) fn coded(&self, coding: Coding) -> (Bytes, Coding) {
        let small = self.plain.len() < WORTH_IT;
        let compressed = match coding {
            Coding::Gzip if !small => self.gzip.get_or_init(|| gzip(&self.plain)),
            Coding::Brotli if !small => self.brotli.get_or_init(|| brotli(&self.plain)),
            _ => &None,
        };
        match compressed {
            Some(bytes) => (bytes.clone(), coding),
            None => (self.plain.clone(), Coding::Identity),
        }
    }
}

fn gzip(plain: &Bytes) -> Option<Bytes> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).ok()?;
    Some(Bytes::from(encoder.finish().ok()?)).filter(|c| c.len() < plain.len())
}

fn brotli(plain: &Bytes) -> Option<Bytes> {
    let mut compressed = Vec::new();
    // Quality 5: half a millisecond for a playlist, and within 3 % of the slower ones.
    let mut reader = brotli::CompressorReader::new(plain.as_ref(), 16 * 1024, 5, 20);
    reader.read_to_end(&mut compressed).ok()?;
    Some(Bytes::from(compressed)).filter(|c| c.len() < plain.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_best_coding_that_a_request_takes_is_used() {
        for (value, coding) in [
            ("", Coding::Identity),
            ("gzip, deflate, br, zstd", Coding::Brotli),
            ("gzip", Coding::Gzip),
            ("br;q=0, gzip;q=0.5", Coding::Gzip),
            ("identity", Coding::Identity),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(Coding::negotiate(&headers), coding, "{value:?}");
        }
    }

    #[test]
    fn a_text_is_compressed_once_and_reads_back() {
        let text = Text::new(Bytes::from("#EXT-X-PART:DURATION=0.33333\n".repeat(100)));
        let (first, coding) = text.coded(Coding::Gzip);
        assert_eq!(coding, Coding::Gzip);
        assert_eq!(first.as_ptr(), text.coded(Coding::Gzip).0.as_ptr());
        let mut read = String::new();
        flate2::read::GzDecoder::new(first.as_ref())
            .read_to_string(&mut read)
            .unwrap();
        assert_eq!(read.as_bytes(), text.plain);
        let (brotli, _) = text.coded(Coding::Brotli);
        let mut read = Vec::new();
        brotli::Decompressor::new(brotli.as_ref(), 4_096)
            .read_to_end(&mut read)
            .unwrap();
        assert_eq!(read, text.plain);
        assert_eq!(
            Text::new(Bytes::from("short")).coded(Coding::Gzip).1,
            Coding::Identity
        );
    }
}
