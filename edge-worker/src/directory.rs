//! Streams, their keys, and who may publish: decisions on entries that an adapter keeps (a file in the native edge, rows in the Worker).
//!
//! A stream has one static key, found by its id and checked against its SHA-256. The entry keeps the key itself as well, because the
//! studio page shows it to its owner: whoever keeps entries keeps them as secrets.

use std::collections::BTreeMap;

use protocol::{
    internal::{Admission, Admit},
    names::{BroadcastId, StreamName},
    stream_key::StreamKey,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Why a publisher or a request about a stream is turned away. The text is for a person, and says nothing of what exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such key, or the wrong one.
    #[error("the stream key is wrong: copy it again from the studio page")]
    Key,
    /// The key is another stream's than the address names.
    #[error("the stream key belongs to another stream than the address names")]
    OtherStream,
    /// No such stream.
    #[error("there is no stream {0}")]
    NoStream(StreamName),
    /// The id of the stream's key is another stream's.
    #[error("the key id of stream {0} belongs to another stream")]
    KeyId(StreamName),
}

/// A stream.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamEntry {
    /// Its name.
    pub name: StreamName,
    /// What its key is found by.
    pub key_id: String,
    /// SHA-256 of the key, lower-case hexadecimal.
    pub key_sha256: String,
    /// The key, to show to its owner.
    pub key: String,
    /// What the studio link carries.
    pub studio_secret: String,
    /// When it was made, Unix milliseconds.
    pub created_unix_ms: i64,
}

impl std::fmt::Debug for StreamEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamEntry")
            .field("name", &self.name)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl StreamEntry {
    /// A new stream with a new key and a new studio secret, of 16 random bytes each. `key_id` is `[a-z0-9-]{1,32}` and no other stream's.
    pub fn new(
        name: StreamName,
        key_id: &str,
        random: [[u8; 16]; 2],
        now_unix_ms: i64,
    ) -> Option<Self> {
        let key = StreamKey::from_random(key_id, random[0]).ok()?;
        Some(Self {
            name,
            key_id: key.id().to_owned(),
            key_sha256: key.digest(),
            key: key.reveal(),
            studio_secret: BroadcastId::from_random(random[1]).to_string(),
            created_unix_ms: now_unix_ms,
        })
    }

    /// Gives the stream a new key of 16 random bytes; the old one is refused from now on.
    pub fn rotate_key(&mut self, random: [u8; 16]) {
        if let Ok(key) = StreamKey::from_random(&self.key_id, random) {
            self.key_sha256 = key.digest();
            self.key = key.reveal();
        }
    }

    /// Takes a key over that was given to the stream elsewhere. Also whether it is another than before; one that is not a key, or has
    /// another id, is not taken.
    pub fn adopt_key(&mut self, key: &str) -> bool {
        let Ok(key) = key.parse::<StreamKey>() else {
            return false;
        };
        if key.id() != self.key_id || key.matches(&self.key_sha256) {
            return false;
        }
        self.key_sha256 = key.digest();
        self.key = key.reveal();
        true
    }

    /// Whether a request's `Authorization` header carries this stream's studio secret, in constant time.
    pub fn opens_studio(&self, authorization: Option<&str>) -> bool {
        let given = authorization.and_then(|value| value.strip_prefix("Bearer "));
        // Digests have one length, so that the time tells nothing of the secret's.
        let given = Sha256::digest(given.unwrap_or_default().trim());
        Sha256::digest(&self.studio_secret).ct_eq(&given).into()
    }
}

/// May this publisher publish? `entry` is the stream that the key's id belongs to.
///
/// # Errors
/// [`Refusal`] when not.
pub fn admit(question: &Admit, entry: Option<&StreamEntry>) -> Result<Admission, Refusal> {
    let key: StreamKey = question.key.parse().map_err(|_| Refusal::Key)?;
    let entry = entry.filter(|e| e.key_id == key.id()).ok_or(Refusal::Key)?;
    if !key.matches(&entry.key_sha256) {
        return Err(Refusal::Key);
    }
    match &question.stream {
        Some(stream) if *stream != entry.name => Err(Refusal::OtherStream),
        _ => Ok(Admission {
            stream: entry.name.clone(),
        }),
    }
}

/// The id that a question's key would be found by.
pub fn key_id(question: &Admit) -> Option<String> {
    let key: StreamKey = question.key.parse().ok()?;
    Some(key.id().to_owned())
}

/// All streams, in memory: what the native edge keeps in one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    streams: BTreeMap<StreamName, StreamEntry>,
}

impl Directory {
    /// The stream, if there is one of that name.
    pub fn stream(&self, name: &StreamName) -> Option<&StreamEntry> {
        self.streams.get(name)
    }

    /// All streams by name.
    pub fn streams(&self) -> impl Iterator<Item = &StreamEntry> {
        self.streams.values()
    }

    /// The stream of that name; made when there is none, with 48 random bytes. Also whether it was made.
    pub fn ensure(
        &mut self,
        name: &StreamName,
        random: [[u8; 16]; 3],
        now_unix_ms: i64,
    ) -> (&StreamEntry, bool) {
        let made = !self.streams.contains_key(name);
        if made {
            let entry = self.make(name, random, now_unix_ms);
            self.streams.insert(name.clone(), entry);
        }
        (&self.streams[name], made)
    }

    fn make(&self, name: &StreamName, random: [[u8; 16]; 3], now_unix_ms: i64) -> StreamEntry {
        let free = |id: &str| !self.streams.values().any(|e| e.key_id == id);
        let anonymous = BroadcastId::from_random(random[2]).to_string();
        // The stream's own name where a key id can be that, so that a person sees what a key is for.
        let entry = Some(name.as_str())
            .filter(|id| free(id))
            .and_then(|id| StreamEntry::new(name.clone(), id, [random[0], random[1]], now_unix_ms));
        match entry.or_else(|| {
            StreamEntry::new(
                name.clone(),
                &anonymous,
                [random[0], random[1]],
                now_unix_ms,
            )
        }) {
            Some(entry) => entry,
            None => unreachable!("26 characters of lower-case base32 are a key id"),
        }
    }

    /// Makes or replaces a stream as somebody else has it.
    ///
    /// # Errors
    /// [`Refusal::KeyId`] when its key could not be told from another stream's.
    pub fn put(&mut self, entry: StreamEntry) -> Result<(), Refusal> {
        let taken = |other: &StreamEntry| other.key_id == entry.key_id && other.name != entry.name;
        if self.streams.values().any(taken) {
            return Err(Refusal::KeyId(entry.name));
        }
        self.streams.insert(entry.name.clone(), entry);
        Ok(())
    }

    /// Gives a stream a new key.
    ///
    /// # Errors
    /// [`Refusal::NoStream`].
    pub fn rotate_key(
        &mut self,
        name: &StreamName,
        random: [u8; 16],
    ) -> Result<&StreamEntry, Refusal> {
        let entry = (self.streams.get_mut(name)).ok_or_else(|| Refusal::NoStream(name.clone()))?;
        entry.rotate_key(random);
        Ok(entry)
    }

    /// May this publisher publish, and as what?
    ///
    /// # Errors
    /// [`Refusal`] when not.
    pub fn admit(&self, question: &Admit) -> Result<Admission, Refusal> {
        let id = key_id(question);
        let entry = id.and_then(|id| self.streams.values().find(|e| e.key_id == id));
        admit(question, entry)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(text: &str) -> StreamName {
        text.parse().unwrap()
    }

    fn question(key: &str, stream: Option<&str>) -> Admit {
        Admit {
            key: key.to_owned(),
            stream: stream.map(name),
            peer: "127.0.0.1:4000".to_owned(),
        }
    }

    #[test]
    fn only_a_stream_s_own_key_admits_and_only_as_that_stream() {
        let mut directory = Directory::default();
        let live = directory
            .ensure(&name("live"), [[1; 16], [2; 16], [3; 16]], 0)
            .0
            .key
            .clone();
        let demo = directory
            .ensure(&name("demo"), [[4; 16], [5; 16], [6; 16]], 0)
            .0
            .key
            .clone();
        assert!(live.starts_with("live_"));
        let admitted = directory.admit(&question(&live, None)).unwrap();
        assert_eq!(admitted.stream, name("live"));
        assert!(directory.admit(&question(&live, Some("live"))).is_ok());
        assert_eq!(
            directory.admit(&question(&live, Some("demo"))),
            Err(Refusal::OtherStream)
        );
        let forged = demo.replace("demo_", "live_");
        for bad in [
            "",
            "live",
            "live_",
            "nobody_aaaaaaaaaaaaaaaaaaaaaaaaaa",
            &forged,
        ] {
            assert_eq!(
                directory.admit(&question(bad, None)),
                Err(Refusal::Key),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_rotated_key_is_refused_and_the_new_one_admitted() {
        let mut directory = Directory::default();
        let old = directory
            .ensure(&name("live"), [[1; 16]; 3], 0)
            .0
            .key
            .clone();
        let new = directory
            .rotate_key(&name("live"), [9; 16])
            .unwrap()
            .key
            .clone();
        assert_eq!(directory.admit(&question(&old, None)), Err(Refusal::Key));
        assert!(directory.admit(&question(&new, None)).is_ok());
        assert!(directory.rotate_key(&name("nobody"), [9; 16]).is_err());
    }

    #[test]
    fn a_stream_from_elsewhere_is_taken_over_unless_its_key_is_another_stream_s() {
        let entry = |stream, id, random| {
            StreamEntry::new(name(stream), id, [[random; 16], [2; 16]], 0).unwrap()
        };
        let mut directory = Directory::default();
        directory.put(entry("live", "live", 1)).unwrap();
        let newer = entry("live", "live", 5);
        directory.put(newer.clone()).unwrap();
        assert_eq!(directory.stream(&name("live")), Some(&newer));
        let refused = directory.put(entry("demo", "live", 6));
        assert_eq!(refused, Err(Refusal::KeyId(name("demo"))));
    }

    #[test]
    fn a_key_from_elsewhere_is_adopted_once_and_only_with_the_stream_s_id() {
        let mut entry = StreamEntry::new(name("live"), "live", [[1; 16], [2; 16]], 0).unwrap();
        let mut rotated = entry.clone();
        rotated.rotate_key([9; 16]);
        let other = StreamEntry::new(name("demo"), "demo", [[3; 16], [2; 16]], 0).unwrap();
        let before = entry.clone();
        for not in ["", "live", other.key.as_str(), before.key.as_str()] {
            assert!(!entry.adopt_key(not), "{not:?}");
        }
        assert_eq!(entry, before);
        assert!(entry.adopt_key(&rotated.key));
        assert_eq!(entry, rotated);
        assert!(!entry.adopt_key(&rotated.key));
    }

    #[test]
    fn a_name_that_is_no_key_id_gets_another_id() {
        let mut directory = Directory::default();
        let long = name(&"x".repeat(64));
        for stream in [name("a_b"), long] {
            let random = [[7; 16], [8; 16], [stream.as_str().len() as u8; 16]];
            let (entry, made) = directory.ensure(&stream, random, 0);
            assert!(made);
            let key = entry.key.clone();
            assert_eq!(
                directory.admit(&question(&key, None)).unwrap().stream,
                stream
            );
            assert!(!directory.ensure(&stream, random, 0).1);
        }
    }

    #[test]
    fn the_studio_opens_with_its_secret_only() {
        let entry = StreamEntry::new(name("live"), "live", [[1; 16], [2; 16]], 0).unwrap();
        let right = format!("Bearer {}", entry.studio_secret);
        assert!(entry.opens_studio(Some(&right)));
        for wrong in [
            None,
            Some(""),
            Some("Bearer "),
            Some("Bearer x"),
            Some(entry.studio_secret.as_str()),
        ] {
            assert!(!entry.opens_studio(wrong), "{wrong:?}");
        }
        assert!(!format!("{entry:?}").contains(&entry.studio_secret));
    }
}
