//! The player's pages, embedded in the binary at build time.

use bytes::Bytes;

/// Path under the server's root, and the file.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The file of that path (without a leading slash).
pub(crate) fn get(path: &str) -> Option<Bytes> {
    let at = FILES.binary_search_by_key(&path, |(name, _)| name).ok()?;
    Some(Bytes::from_static(FILES[at].1))
}
