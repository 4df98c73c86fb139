//! Streams, their keys, and who may publish: decisions on what an adapter keeps (SQLite in the native edge, D1 in the Worker).
//!
//! A stream has one static key, found by its id and checked against its SHA-256. The key itself, which the studio page shows to the
//! stream's owner, and the secret of the studio link are kept [sealed](seal): a [`Stream`] opens nothing by itself, a [`StreamEntry`] is
//! the stream with its secrets.

use std::collections::{BTreeMap, HashMap};

use data_encoding::HEXLOWER;
use protocol::{
    internal::{Admission, Admit},
    limits::Limits,
    names::{BroadcastId, StreamName},
    stream_key::StreamKey,
    token::{Credential, Revocation, Revocations, Revoked, Tag},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

pub mod seal;
pub mod settings;
pub mod sql;

use crate::access::TakeBack;
use seal::{Closed, Column, Nonce, Seal};
use settings::{Title, Visibility};

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
    /// There is one of that name.
    #[error("there is a stream {0} already")]
    Exists(StreamName),
    /// The id of the stream's key is another stream's.
    #[error("the key id of stream {0} belongs to another stream")]
    KeyId(StreamName),
    /// What the studio link carried is no longer the stream's.
    #[error("the studio link was changed: open the new one")]
    Studio,
    /// The address is not one that may publish.
    #[error("publishing is not open to this network address")]
    Address,
    /// Too many wrong keys came from the address.
    #[error("too many wrong keys came from this network address: wait a minute")]
    TooOften,
}

/// A stream with its secrets: as its owner sees it, and as a box gives it to an edge (`PUT /internal/streams/{stream}`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamEntry {
    /// Its name.
    pub name: StreamName,
    /// The key.
    #[serde(with = "revealed")]
    #[schemars(with = "StreamKey")]
    pub key: StreamKey,
    /// What the studio link carries.
    pub studio_secret: String,
    /// When it was made, Unix milliseconds.
    pub created_unix_ms: i64,
    /// The key before this one, while it is good too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_key: Option<OldKey>,
}

/// A key that was replaced and goes on for a while, so that an encoder can be given the new one in between two broadcasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OldKey {
    /// SHA-256 of it, lower-case hexadecimal.
    pub sha256: String,
    /// From when on it opens no new broadcast, Unix milliseconds.
    pub until_unix_ms: i64,
}

impl std::fmt::Debug for StreamEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamEntry")
            .field("name", &self.name)
            .field("key", &self.key)
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
        Some(Self {
            name,
            key: StreamKey::from_random(key_id, random[0]).ok()?,
            studio_secret: new_studio_secret(random[1]),
            created_unix_ms: now_unix_ms,
            old_key: None,
        })
    }

    /// Gives the stream a new key of 16 random bytes.
    pub fn rotate_key(&mut self, random: [u8; 16]) {
        if let Ok(key) = StreamKey::from_random(self.key.id(), random) {
            self.key = key;
        }
    }

    /// Takes a key over that was given to the stream elsewhere. Also whether it is another than before; one that is not a key, or has
    /// another id, is not taken.
    pub fn adopt_key(&mut self, key: &str) -> bool {
        match key.parse::<StreamKey>() {
            Ok(key) if key.id() == self.key.id() && key != self.key => {
                self.key = key;
                true
            }
            _ => false,
        }
    }
}

/// A key in JSON, for those who may see it.
mod revealed {
    use protocol::stream_key::StreamKey;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(key: &StreamKey, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&key.reveal())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<StreamKey, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

fn new_studio_secret(random: [u8; 16]) -> String {
    BroadcastId::from_random(random).to_string()
}

/// Whether this has the form of what a studio link carries. Where it has not, no stream needs to be looked for.
pub fn could_open_studio(text: &str) -> bool {
    text.parse::<BroadcastId>().is_ok()
}

/// SHA-256 in lower-case hexadecimal.
fn digest(secret: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(secret))
}

/// A stream as the directory keeps it: nothing in it admits anybody or opens a studio.
#[derive(Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: StreamName,
    /// What its key is found by.
    pub key_id: String,
    /// SHA-256 of the key, lower-case hexadecimal.
    pub key_sha256: String,
    /// The key, sealed; `None` where it was not kept.
    pub key_sealed: Option<String>,
    /// The key before it, while that is good too.
    pub old_key: Option<OldKey>,
    /// SHA-256 of what the studio link carries, lower-case hexadecimal.
    pub studio_sha256: String,
    /// What the studio link carries, sealed; `None` at an edge that only checks it.
    pub studio_sealed: Option<String>,
    /// When it was made, Unix milliseconds.
    pub created_unix_ms: i64,
    /// Who may watch it.
    pub visibility: Visibility,
    /// What it is called.
    pub title: Option<Title>,
    /// What it may take.
    pub limits: Limits,
    /// What a configuration said of these last: [`settings::Change::remembered`].
    pub configured: Option<String>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("name", &self.name)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// A stream to be kept where its key is shown, and its studio link where there is a nonce for it.
    pub fn keep(entry: &StreamEntry, seal: &Seal, key: Nonce, studio: Option<Nonce>) -> Self {
        let mut stream = Self {
            name: entry.name.clone(),
            key_id: String::new(),
            key_sha256: String::new(),
            key_sealed: None,
            old_key: entry.old_key.clone(),
            studio_sha256: digest(&entry.studio_secret),
            studio_sealed: None,
            created_unix_ms: entry.created_unix_ms,
            visibility: Visibility::default(),
            title: None,
            limits: Limits::default(),
            configured: None,
        };
        stream.set_key(&entry.key, seal, key);
        if let Some(nonce) = studio {
            stream.set_studio_secret(&entry.studio_secret, seal, nonce);
        }
        stream
    }

    fn set_key(&mut self, key: &StreamKey, seal: &Seal, nonce: Nonce) {
        key.id().clone_into(&mut self.key_id);
        self.key_sha256 = key.digest();
        let revealed = Zeroizing::new(key.reveal());
        self.key_sealed = seal.close(Column::Key, &self.name, nonce, &revealed);
    }

    fn set_studio_secret(&mut self, secret: &str, seal: &Seal, nonce: Nonce) {
        self.studio_sha256 = digest(secret);
        self.studio_sealed = seal.close(Column::Studio, &self.name, nonce, secret);
    }

    /// Gives the stream a new key of 16 random bytes. The one before it is good until then, if a time is given; any older one is refused
    /// from now on. For this nothing needs to be opened.
    pub fn rotate_key(
        &mut self,
        random: [u8; 16],
        old_until_unix_ms: Option<i64>,
        seal: &Seal,
        nonce: Nonce,
    ) {
        if let Ok(key) = StreamKey::from_random(&self.key_id, random) {
            self.old_key = old_until_unix_ms.map(|until_unix_ms| OldKey {
                sha256: self.key_sha256.clone(),
                until_unix_ms,
            });
            self.set_key(&key, seal, nonce);
        }
    }

    /// Gives the stream a new studio link of 16 random bytes: whoever has the old one is out. What the new one
    /// carries, and the id of the token that the old one stood for. It is sealed at an edge that only checks it as well, until the box
    /// that shows it has it ([`Self::newer_studio`]).
    pub fn log_out(
        &mut self,
        random: [u8; 16],
        seal: &Seal,
        nonce: Nonce,
    ) -> (Zeroizing<String>, Tag) {
        let before = self.studio_tag();
        let secret = Zeroizing::new(new_studio_secret(random));
        self.set_studio_secret(&secret, seal, nonce);
        (secret, before)
    }

    /// What the studio link carries now, where a box comes with one from before: the old one must not come back into force.
    pub fn newer_studio(&self, entry: &StreamEntry, seal: &Seal) -> Option<Zeroizing<String>> {
        let newer = self.studio_secret(seal).ok()?;
        (*newer != entry.studio_secret).then_some(newer)
    }

    /// Where the studio link is kept to be shown and no longer opens: seals it again, as a request has just brought it, or a new one of
    /// 16 random bytes. Whether it is a new one.
    pub fn mend_studio(
        &mut self,
        brought: Option<&str>,
        random: [u8; 16],
        seal: &Seal,
        nonce: Nonce,
    ) -> bool {
        if self.studio_sealed.is_none() || self.studio_secret(seal).is_ok() {
            return false;
        }
        match brought.filter(|secret| self.is_studio_secret(secret)) {
            Some(secret) => {
                self.set_studio_secret(secret, seal, nonce);
                false
            }
            None => {
                let secret = Zeroizing::new(new_studio_secret(random));
                self.set_studio_secret(&secret, seal, nonce);
                true
            }
        }
    }

    /// The SHA-256 of this key, where it opens a broadcast of the stream now.
    pub fn admits(&self, key: &StreamKey, now_unix_ms: i64) -> Option<&str> {
        let old = (self.old_key.as_ref()).filter(|old| now_unix_ms < old.until_unix_ms);
        // Both are compared, so that the time does not tell which it was.
        let (new, old) = (
            key.matches(&self.key_sha256).then_some(&self.key_sha256),
            old.filter(|old| key.matches(&old.sha256))
                .map(|old| &old.sha256),
        );
        new.or(old).map(String::as_str)
    }

    /// What ends the broadcasts that go on with a key that the stream has no more: `before` is the stream as it was. It is remembered for as
    /// long as a box may be cut off from the edge.
    pub fn revokes(&self, before: &Self, now_unix_ms: i64) -> Vec<Revocation> {
        // Whoever brings the same key again says nothing of the one before it, which stays: a box that starts again.
        if self.key_sha256 == before.key_sha256 && self.old_key.is_none() {
            return Vec::new();
        }
        let keys = |stream: &Self| {
            let old = stream.old_key.as_ref().map(|old| old.sha256.clone());
            [Some(stream.key_sha256.clone()), old].into_iter().flatten()
        };
        let gone = keys(before).filter(|key| !keys(self).any(|kept| kept == *key));
        let revoked = gone.map(|key| TakeBack {
            what: Revoked::Key(Tag::stream_key(&key)),
            // Where a webhook led its publisher to another stream as well: it is known which they came for.
            streams: self.name.clone().into(),
        });
        revoked
            .map(|revoked| revoked.revocation(now_unix_ms))
            .collect()
    }

    /// The key, to show to the stream's owner.
    ///
    /// # Errors
    /// [`Closed`] when it was sealed with another secret, for another stream, or was not kept.
    pub fn key(&self, seal: &Seal) -> Result<StreamKey, Closed> {
        let opened = self.open_column(Column::Key, self.key_sealed.as_deref(), seal)?;
        // An older key put back in the newer one's place opens, but is not what admits.
        let key = opened.parse::<StreamKey>().ok();
        key.filter(|key| key.matches(&self.key_sha256))
            .ok_or_else(|| self.closed(Column::Key))
    }

    /// What the studio link carries, to show to the stream's owner.
    ///
    /// # Errors
    /// As [`Self::key`].
    pub fn studio_secret(&self, seal: &Seal) -> Result<Zeroizing<String>, Closed> {
        let opened = self.open_column(Column::Studio, self.studio_sealed.as_deref(), seal)?;
        match self.is_studio_secret(&opened) {
            true => Ok(opened),
            false => Err(self.closed(Column::Studio)),
        }
    }

    /// The stream with its secrets.
    ///
    /// # Errors
    /// [`Closed`] when not both can be opened.
    pub fn open(&self, seal: &Seal) -> Result<StreamEntry, Closed> {
        Ok(StreamEntry {
            name: self.name.clone(),
            key: self.key(seal)?,
            studio_secret: self.studio_secret(seal)?.to_string(),
            created_unix_ms: self.created_unix_ms,
            old_key: self.old_key.clone(),
        })
    }

    fn open_column(
        &self,
        column: Column,
        sealed: Option<&str>,
        seal: &Seal,
    ) -> Result<Zeroizing<String>, Closed> {
        let sealed = sealed.ok_or_else(|| self.closed(column))?;
        seal.open(column, &self.name, sealed)
    }

    fn closed(&self, column: Column) -> Closed {
        Closed {
            column,
            stream: self.name.clone(),
        }
    }

    /// Whether this is what the stream's studio link carries, in constant time.
    fn is_studio_secret(&self, secret: &str) -> bool {
        // Digests have one length, so that the time tells nothing of the secret's.
        let ours = self.studio_sha256.as_bytes();
        digest(secret).as_bytes().ct_eq(ours).into()
    }

    /// Whether a request's `Authorization` header carries this stream's studio secret, in constant time.
    pub fn opens_studio(&self, authorization: Option<&str>) -> bool {
        self.is_studio_secret(bearer(authorization).unwrap_or_default())
    }

    /// The id of the token that the studio link stands for where somebody watches with it, if this is what the link carries. Another link
    /// is another token.
    pub fn studio_token(&self, given: &str) -> Option<Tag> {
        self.is_studio_secret(given).then(|| self.studio_tag())
    }

    fn studio_tag(&self) -> Tag {
        Tag::token("studio", &self.studio_sha256)
    }

    /// Whether keeping this entry would change nothing: secrets and when it was made are the same, and the key can be shown.
    pub fn has(&self, entry: &StreamEntry, seal: &Seal) -> bool {
        self.name == entry.name
            && entry.key.matches(&self.key_sha256)
            && (entry.old_key.is_none() || entry.old_key == self.old_key)
            && self.is_studio_secret(&entry.studio_secret)
            && self.key(seal).is_ok()
    }
}

/// What an `Authorization` header of the scheme `Bearer` carries (RFC 6750 section 2.1).
pub fn bearer(authorization: Option<&str>) -> Option<&str> {
    let (scheme, carried) = authorization?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| carried.trim())
}

/// May this publisher publish? `stream` is the one that the key's id belongs to.
///
/// # Errors
/// [`Refusal`] when not.
pub fn admit(
    question: &Admit,
    stream: Option<&Stream>,
    revoked: &Revocations,
    now_unix_ms: i64,
) -> Result<Admission, Refusal> {
    let key: StreamKey = question.key.parse().map_err(|_| Refusal::Key)?;
    let kept = stream
        .filter(|s| s.key_id == key.id())
        .ok_or(Refusal::Key)?;
    let sha256 = kept.admits(&key, now_unix_ms).ok_or(Refusal::Key)?;
    if (question.stream.as_ref()).is_some_and(|stream| *stream != kept.name) {
        return Err(Refusal::OtherStream);
    }
    let (key, streams) = (Tag::stream_key(sha256), kept.name.clone().into());
    let issued = revoked.issue_as(&key, &streams, now_unix_ms);
    Ok(Admission {
        credential: Some(Credential::stream_key(sha256, issued)),
        ..Admission::of(kept.name.clone())
    })
}

/// The id that a question's key would be found by.
pub fn key_id(question: &Admit) -> Option<String> {
    let key: StreamKey = question.key.parse().ok()?;
    Some(key.id().to_owned())
}

/// All streams, in memory: what the native edge decides with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    streams: BTreeMap<StreamName, Stream>,
    by_key_id: HashMap<String, StreamName>,
    revocations: Revocations,
}

impl FromIterator<Stream> for Directory {
    fn from_iter<T: IntoIterator<Item = Stream>>(streams: T) -> Self {
        let mut directory = Self::default();
        for stream in streams {
            directory.set(stream);
        }
        directory
    }
}

impl Directory {
    /// The stream, if there is one of that name.
    pub fn stream(&self, name: &StreamName) -> Option<&Stream> {
        self.streams.get(name)
    }

    /// What was taken back.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Takes something back.
    pub fn revoke(&mut self, revocation: Revocation) {
        self.revocations.forget(revocation.at_unix_ms);
        self.revocations.add(revocation);
    }

    /// Takes in what was kept of what was taken back: what is contained in another of them was forgotten when that was kept.
    pub fn load_revocations(&mut self, kept: impl Iterator<Item = Revocation>, now_unix_ms: i64) {
        self.revocations.extend(kept);
        self.revocations.forget(now_unix_ms);
    }

    /// All streams by name.
    pub fn streams(&self) -> impl Iterator<Item = &Stream> + Clone {
        self.streams.values()
    }

    /// A new stream of that name, not yet in the directory, of 48 random bytes.
    pub fn new_stream(
        &self,
        name: &StreamName,
        random: [[u8; 16]; 3],
        now_unix_ms: i64,
    ) -> StreamEntry {
        let anonymous = BroadcastId::from_random(random[2]).to_string();
        let make =
            |id: &str| StreamEntry::new(name.clone(), id, [random[0], random[1]], now_unix_ms);
        // The stream's own name where a key id can be that, so that a person sees what a key is for.
        let entry = Some(name.as_str())
            .filter(|id| !self.by_key_id.contains_key(*id))
            .and_then(make);
        match entry.or_else(|| make(&anonymous)) {
            Some(entry) => entry,
            None => unreachable!("26 characters of lower-case base32 are a key id"),
        }
    }

    /// Whether a stream can be kept beside the others.
    ///
    /// # Errors
    /// [`Refusal::KeyId`] when its key could not be told from another stream's.
    pub fn check(&self, stream: &Stream) -> Result<(), Refusal> {
        match self.by_key_id.get(&stream.key_id) {
            Some(holder) if *holder != stream.name => Err(Refusal::KeyId(stream.name.clone())),
            _ => Ok(()),
        }
    }

    /// Makes or replaces a stream that was [checked](Self::check).
    pub fn set(&mut self, stream: Stream) {
        let (id, name) = (stream.key_id.clone(), stream.name.clone());
        if let Some(before) = self.streams.insert(name.clone(), stream) {
            self.by_key_id.remove(&before.key_id);
        }
        self.by_key_id.insert(id, name);
    }

    /// Forgets a stream.
    pub fn remove(&mut self, name: &StreamName) {
        if let Some(stream) = self.streams.remove(name) {
            self.by_key_id.remove(&stream.key_id);
        }
    }

    /// May this publisher publish, and as what?
    ///
    /// # Errors
    /// [`Refusal`] when not.
    pub fn admit(&self, question: &Admit, now_unix_ms: i64) -> Result<Admission, Refusal> {
        let id = key_id(question);
        let name = id.and_then(|id| self.by_key_id.get(&id));
        let stream = name.and_then(|name| self.streams.get(name));
        admit(question, stream, &self.revocations, now_unix_ms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(text: &str) -> StreamName {
        text.parse().unwrap()
    }

    fn seal() -> Seal {
        Seal::derive(b"a secret of thirty-two characters")
    }

    fn entry(stream: &str, id: &str, random: u8) -> StreamEntry {
        StreamEntry::new(name(stream), id, [[random; 16], [2; 16]], 0).unwrap()
    }

    fn keep(entry: &StreamEntry) -> Stream {
        Stream::keep(entry, &seal(), [1; 24], Some([2; 24]))
    }

    fn question(key: &StreamKey, stream: Option<&str>) -> Admit {
        asked(&key.reveal(), stream)
    }

    fn asked(key: &str, stream: Option<&str>) -> Admit {
        Admit {
            key: key.to_owned(),
            stream: stream.map(name),
            peer: "127.0.0.1:4000".to_owned(),
            ..Admit::default()
        }
    }

    #[test]
    fn only_a_stream_s_own_key_admits_and_only_as_that_stream() {
        let mut directory = Directory::default();
        let live = directory.new_stream(&name("live"), [[1; 16], [2; 16], [3; 16]], 0);
        directory.set(keep(&live));
        let demo = directory.new_stream(&name("demo"), [[4; 16], [5; 16], [6; 16]], 0);
        directory.set(keep(&demo));
        let live = live.key;
        assert_eq!(live.id(), "live");
        let admitted = directory.admit(&question(&live, None), 0).unwrap();
        assert_eq!(admitted.stream, name("live"));
        assert!(directory.admit(&question(&live, Some("live")), 0).is_ok());
        assert_eq!(
            directory.admit(&question(&live, Some("demo")), 0),
            Err(Refusal::OtherStream)
        );
        let forged = demo.key.reveal().replace("demo_", "live_");
        for bad in [
            "",
            "live",
            "live_",
            "nobody_aaaaaaaaaaaaaaaaaaaaaaaaaa",
            &forged,
        ] {
            assert_eq!(
                directory.admit(&asked(bad, None), 0),
                Err(Refusal::Key),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_rotated_key_is_refused_and_the_new_one_admitted() {
        let live = entry("live", "live", 1);
        let mut stream = keep(&live);
        stream.rotate_key([9; 16], None, &seal(), [3; 24]);
        let directory = Directory::from_iter([stream.clone()]);
        let old = directory.admit(&question(&live.key, None), 0);
        assert_eq!(old, Err(Refusal::Key));
        let new = stream.key(&seal()).unwrap();
        assert!(directory.admit(&question(&new, None), 0).is_ok());
    }

    #[test]
    fn a_key_that_was_replaced_goes_on_for_as_long_as_was_said_and_one_before_it_does_not() {
        let live = entry("live", "live", 1);
        let mut stream = keep(&live);
        let admits = |stream: &Stream, key: &StreamKey, at| {
            let directory = Directory::from_iter([stream.clone()]);
            directory.admit(&question(key, None), at).is_ok()
        };
        stream.rotate_key([9; 16], Some(1_000), &seal(), [3; 24]);
        let second = stream.key(&seal()).unwrap();
        assert!(admits(&stream, &live.key, 999) && !admits(&stream, &live.key, 1_000));
        assert!(admits(&stream, &second, 999) && admits(&stream, &second, 1_000));
        // The box has it so too, and gives it on.
        let given = stream.open(&seal()).unwrap();
        let json = serde_json::to_string(&given).unwrap();
        let given: StreamEntry = serde_json::from_str(&json).unwrap();
        assert!(admits(&keep(&given), &live.key, 999));
        stream.rotate_key([10; 16], Some(2_000), &seal(), [4; 24]);
        assert!(!admits(&stream, &live.key, 0) && admits(&stream, &second, 1_999));
        stream.rotate_key([11; 16], None, &seal(), [5; 24]);
        assert!(!admits(&stream, &second, 0) && !admits(&stream, &live.key, 0));
    }

    #[test]
    fn what_goes_on_with_a_key_ends_when_the_stream_has_it_no_more_and_not_before() {
        let first = keep(&entry("live", "live", 1));
        let rotated = |from: &Stream, random, until| {
            let mut stream = from.clone();
            stream.rotate_key([random; 16], until, &seal(), [random; 24]);
            stream
        };
        let ended = |after: &Stream, before: &Stream| {
            let revoked = after.revokes(before, 5).into_iter();
            let ended = revoked.map(|revocation| {
                assert_eq!(revocation.streams, name("live").into());
                assert!(revocation.until_unix_ms.is_some());
                revocation.what
            });
            ended.collect::<Vec<_>>()
        };
        let key = |stream: &Stream| Revoked::Key(Tag::stream_key(&stream.key_sha256));
        let second = rotated(&first, 9, None);
        assert_eq!(ended(&second, &first), [key(&first)]);
        let overlapping = rotated(&first, 9, Some(1_000));
        assert_eq!(ended(&overlapping, &first), []);
        // A third takes both, or the one that was older still.
        let third = rotated(&overlapping, 10, None);
        assert_eq!(
            ended(&third, &overlapping),
            [key(&overlapping), key(&first)]
        );
        let third = rotated(&overlapping, 10, Some(2_000));
        assert_eq!(ended(&third, &overlapping), [key(&first)]);
        // A box that starts again brings the key that there is, and not the one before it.
        let brought = Stream {
            old_key: None,
            ..overlapping.clone()
        };
        assert_eq!(ended(&brought, &overlapping), []);
    }

    #[test]
    fn a_stream_from_elsewhere_is_taken_over_unless_its_key_is_another_stream_s() {
        let mut directory = Directory::from_iter([keep(&entry("live", "live", 1))]);
        let newer = keep(&entry("live", "other", 5));
        assert_eq!(directory.check(&newer), Ok(()));
        directory.set(newer.clone());
        assert_eq!(directory.stream(&name("live")), Some(&newer));
        let refused = directory.check(&keep(&entry("demo", "other", 6)));
        assert_eq!(refused, Err(Refusal::KeyId(name("demo"))));
        // The id that the stream had before is free again.
        assert_eq!(directory.check(&keep(&entry("demo", "live", 6))), Ok(()));
    }

    #[test]
    fn a_key_from_elsewhere_is_adopted_once_and_only_with_the_stream_s_id() {
        let mut entry = entry("live", "live", 1);
        let mut rotated = entry.clone();
        rotated.rotate_key([9; 16]);
        let other = StreamEntry::new(name("demo"), "demo", [[3; 16], [2; 16]], 0).unwrap();
        let before = entry.clone();
        for not in ["", "live", &other.key.reveal(), &before.key.reveal()] {
            assert!(!entry.adopt_key(not), "{not:?}");
        }
        assert_eq!(entry, before);
        assert!(entry.adopt_key(&rotated.key.reveal()));
        assert_eq!(entry, rotated);
        assert!(!entry.adopt_key(&rotated.key.reveal()));
    }

    #[test]
    fn a_name_that_is_no_key_id_gets_another_id() {
        let mut directory = Directory::default();
        let long = name(&"x".repeat(64));
        for stream in [name("a_b"), long] {
            let random = [[7; 16], [8; 16], [stream.as_str().len() as u8; 16]];
            let entry = directory.new_stream(&stream, random, 0);
            directory.set(keep(&entry));
            let admitted = directory.admit(&question(&entry.key, None), 0).unwrap();
            assert_eq!(admitted.stream, stream);
        }
    }

    #[test]
    fn the_studio_opens_with_its_secret_only() {
        let entry = entry("live", "live", 1);
        let stream = keep(&entry);
        let right = format!("Bearer {}", entry.studio_secret);
        assert!(stream.opens_studio(Some(&right)));
        for wrong in [
            None,
            Some(""),
            Some("Bearer "),
            Some("Bearer x"),
            Some(entry.studio_secret.as_str()),
        ] {
            assert!(!stream.opens_studio(wrong), "{wrong:?}");
        }
        assert!(could_open_studio(&entry.studio_secret));
        for other in ["", "wrong", "a.b.c", &entry.key.reveal(), &"A".repeat(26)] {
            assert!(!could_open_studio(other), "{other:?}");
        }
        assert!(!format!("{entry:?}").contains(&entry.studio_secret));
        // A row that came without one opens for nobody.
        let without = Stream {
            studio_sha256: String::new(),
            ..stream
        };
        assert!(!without.opens_studio(Some("Bearer ")) && !without.opens_studio(None));
    }

    #[test]
    fn what_is_kept_shows_the_secrets_under_the_seal_only() {
        let entry = entry("live", "live", 1);
        let stream = keep(&entry);
        assert_eq!(stream.open(&seal()), Ok(entry.clone()));
        assert!(stream.has(&entry, &seal()));
        let Stream {
            key_sealed,
            studio_sealed,
            ..
        } = stream.clone();
        let secret = entry.key.reveal();
        let (_, secret) = secret.split_once('_').unwrap();
        for text in [
            key_sealed.unwrap(),
            studio_sealed.unwrap(),
            stream.key_sha256.clone(),
            stream.studio_sha256.clone(),
            format!("{stream:?}"),
        ] {
            assert!(!text.contains(secret) && !text.contains(&entry.studio_secret));
        }
        let other = Seal::derive(b"another secret, of thirty-two and more");
        assert_eq!(stream.key(&other), Err(stream.closed(Column::Key)));
        assert!(!stream.has(&entry, &other));
        // Admission goes on.
        let directory = Directory::from_iter([stream]);
        assert!(directory.admit(&question(&entry.key, None), 0).is_ok());
    }

    #[test]
    fn sealed_texts_of_other_rows_columns_or_times_do_not_open() {
        let (live, demo) = (
            keep(&entry("live", "live", 1)),
            keep(&entry("demo", "demo", 2)),
        );
        let swapped = Stream {
            key_sealed: demo.key_sealed.clone(),
            studio_sealed: demo.studio_sealed.clone(),
            ..live.clone()
        };
        assert!(swapped.key(&seal()).is_err() && swapped.studio_secret(&seal()).is_err());
        let crossed = Stream {
            key_sealed: live.studio_sealed.clone(),
            studio_sealed: live.key_sealed.clone(),
            ..live.clone()
        };
        assert!(crossed.key(&seal()).is_err() && crossed.studio_secret(&seal()).is_err());
        let mut older = live.clone();
        older.rotate_key([9; 16], None, &seal(), [3; 24]);
        older.key_sealed = live.key_sealed;
        assert!(older.key(&seal()).is_err());
    }

    #[test]
    fn logging_out_makes_a_new_studio_link_that_a_box_with_the_old_one_takes_over() {
        let entry = entry("live", "live", 1);
        let shown = Stream::keep(&entry, &seal(), [1; 24], Some([2; 24]));
        let checked = Stream::keep(&entry, &seal(), [1; 24], None);
        for mut stream in [shown, checked] {
            let before = stream.studio_token(&entry.studio_secret).unwrap();
            let (secret, ended) = stream.log_out([9; 16], &seal(), [3; 24]);
            assert_eq!(ended, before);
            assert_ne!(stream.studio_token(&secret), Some(before));
            assert!(stream.opens_studio(Some(&format!("Bearer {}", *secret))));
            assert_eq!(stream.studio_token(&entry.studio_secret), None);
            assert_eq!(stream.newer_studio(&entry, &seal()), Some(secret.clone()));
            let newer = StreamEntry {
                studio_secret: secret.to_string(),
                ..entry.clone()
            };
            assert_eq!(stream.newer_studio(&newer, &seal()), None);
            assert!(entry.key.matches(&stream.key_sha256));
        }
    }

    #[test]
    fn a_lost_seal_is_mended_with_a_new_key_and_the_studio_link_that_was_brought() {
        let entry = entry("live", "live", 1);
        let (mut stream, lost) = (keep(&entry), Seal::derive(b"made after the first was lost"));
        stream.rotate_key([9; 16], None, &lost, [3; 24]);
        assert!(stream.key(&lost).is_ok());
        let mut brought = stream.clone();
        assert!(!brought.mend_studio(Some(&entry.studio_secret), [8; 16], &lost, [4; 24]));
        let shown = brought.studio_secret(&lost).unwrap();
        assert_eq!(*shown, entry.studio_secret);
        // Nobody has it: it is a new one, and the old one opens nothing.
        let mut new = stream.clone();
        assert!(new.mend_studio(Some("wrong"), [8; 16], &lost, [4; 24]));
        let shown = new.studio_secret(&lost).unwrap();
        assert!(new.opens_studio(Some(&format!("Bearer {}", *shown))));
        assert!(!new.opens_studio(Some(&format!("Bearer {}", entry.studio_secret))));
        // What opens, and what is only checked here, stays.
        assert!(!new.clone().mend_studio(None, [7; 16], &lost, [5; 24]));
        let mut only_checked = Stream::keep(&entry, &seal(), [1; 24], None);
        assert!(!only_checked.mend_studio(None, [7; 16], &lost, [5; 24]));
        assert_eq!(only_checked.studio_sealed, None);
    }

    #[test]
    fn an_entry_crosses_with_its_key_and_without_what_follows_from_it() {
        let entry = entry("live", "live", 1);
        let json = serde_json::to_value(&entry).unwrap();
        assert_eq!(json["key"], entry.key.reveal());
        assert_eq!(
            serde_json::from_value::<StreamEntry>(json.clone()).unwrap(),
            entry
        );
        let mut without = json;
        without["key"] = "live".into();
        assert!(serde_json::from_value::<StreamEntry>(without).is_err());
    }
}
