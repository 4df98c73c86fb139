//! Who may do what: the one place that decides over tokens, for every protocol and in both adapters.
//!
//! What a token is and when it is good is in [`protocol::token`]. Here are the keys of this installation ([`Keyring`]), those of others
//! that it trusts, and what is asked: a publisher who comes with a token ([`Access::publish`]), somebody who wants one
//! ([`Access::mint`]).

mod keyring;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr};

pub use keyring::{Keyring, KeyringError};
use protocol::{
    internal::Admit,
    names::StreamName,
    session::{MAX_SESSION_MS, Session, SessionKey},
    token::{
        Action, Actions, Ask, Audience, Claims, Credential, Grant, Jwks, KeyError, KeySet,
        MAX_TEXT_CHARS, MintError, Refusal, Revocation, Revocations, Revoked, Seconds,
        StreamPattern, Tag, VerifyingKey,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    directory::{
        settings::{LINE, is_line},
        sql::LinkRow,
    },
    limits::{MAX_REVOCATIONS_A_STREAM, Tenants},
    streams::Bearer,
};

/// What an installation is called where nobody has named it: `iss` and `aud` of its own tokens.
pub const INSTALLATION: &str = "ghost-live";

/// How long a token is good where nobody said, seconds.
const DAY_S: u64 = 24 * 3_600;
/// How long one is good at the most that somebody asked for with another, seconds: whoever gave that one to them may take it back.
const DELEGATED_S: u64 = 30 * DAY_S;

/// Somebody else who signs tokens for this installation: a team's own backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What its tokens have as `iss`.
    pub issuer: String,
    /// Its Ed25519 public key: the `x` of its JSON Web Key, 32 bytes in base64url.
    pub public_key: String,
    /// What the header of its tokens has as `kid`; the first 8 characters of the key's thumbprint (RFC 7638) when left out.
    #[serde(default)]
    pub kid: Option<String>,
    /// What the names of its streams begin with. It can sign for those only.
    pub tenant: String,
}

/// What a token is wanted for: the body of `POST /api/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Which streams.
    pub stream: StreamPattern,
    /// What may be done with them.
    pub act: Actions,
    /// Whom it is for; whoever asks, when left out.
    #[serde(default)]
    #[schemars(length(min = 1, max = MAX_TEXT_CHARS))]
    pub sub: Option<String>,
    /// How long new sessions may begin, seconds: a day when left out, and never longer than the token of whoever asks.
    #[serde(default)]
    pub for_s: Option<u64>,
    /// When a session that it began ends, seconds from now; never, when left out.
    #[serde(default)]
    pub session_s: Option<u64>,
    /// Where it may be used from (CIDR); anywhere, when empty.
    #[serde(default)]
    #[schemars(schema_with = "protocol::schema::networks")]
    pub ip: Vec<ipnet::IpNet>,
    /// On how many devices at a time; on any number, when left out.
    #[serde(default)]
    pub max: Option<std::num::NonZeroU32>,
}

/// A new token: the answer to `POST /api/tokens`. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Minted {
    /// The token.
    pub token: String,
    /// Its id, by which it can be revoked.
    pub jti: String,
    /// From when on it begins no new session, Unix seconds.
    pub exp: Seconds,
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minted")
            .field("jti", &self.jti)
            .field("exp", &self.exp)
            .finish_non_exhaustive()
    }
}

/// What is to be taken back: the body of `POST /api/revocations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeBack {
    /// What.
    pub what: Revoked,
    /// For which streams. Whoever asks manages all of them.
    pub streams: StreamPattern,
}

impl TakeBack {
    /// All that was issued for a stream, which is deleted: so that it opens no other of that name. It is remembered for as long as its
    /// watch links would have been good, and for a year at least; not for ever, since names that are used once are many.
    pub fn deleted<'a>(
        stream: &StreamName,
        links: impl Iterator<Item = &'a LinkRow>,
        now_unix_ms: i64,
    ) -> Revocation {
        let all = Self {
            what: Revoked::All,
            streams: stream.clone().into(),
        };
        let year = after(now_unix_ms, 365 * DAY_S);
        let last = links.filter_map(LinkRow::exp).fold(year, Ord::max);
        all.revocation_of(last.unix_ms(), now_unix_ms)
    }

    /// Looks for what can be read and can be of no token.
    ///
    /// # Errors
    /// A sentence for whoever asks.
    pub fn check(&self) -> Result<(), String> {
        let texts = match &self.what {
            Revoked::Token { iss, jti } => [iss, jti],
            Revoked::Subject { iss, sub } => [iss, sub],
            Revoked::All | Revoked::Session(_) | Revoked::Key(_) => return Ok(()),
        };
        let fits = |text: &&String| (1..=MAX_TEXT_CHARS).contains(&text.chars().count());
        match texts.iter().all(fits) {
            true => Ok(()),
            false => Err(format!(
                "a token's issuer, id and subject have 1 to {MAX_TEXT_CHARS} characters each"
            )),
        }
    }

    /// It, or more by the same hand where very much was taken back already: of just those streams, all that was issued for them; of the
    /// part of the directory that they count in, all that whoever asks (and manages `manager`) has there. So nobody who has to take
    /// something back is told that it cannot be done, one stream is remembered by a bounded number, and a manager who names ever others
    /// loses their own; the list is not longer by it than by one for each pattern that somebody's token manages.
    #[must_use]
    pub fn folded(self, manager: &StreamPattern, tenants: &Tenants, revoked: &Revocations) -> Self {
        let all = |streams| Self {
            what: Revoked::All,
            streams,
        };
        if let Some(streams) = tenants.folds(manager, &self.streams, revoked) {
            return all(streams);
        }
        match revoked.of(&self.streams) >= MAX_REVOCATIONS_A_STREAM {
            true => all(self.streams),
            false => self,
        }
    }

    /// As [`Self::folded`], for somebody who owns the stream that it is of.
    fn folded_by_owner(self, tenants: &Tenants, revoked: &Revocations) -> Self {
        let owner = self.streams.clone();
        self.folded(&owner, tenants, revoked)
    }

    /// It, from now on. A token, a subject or all of some streams is remembered for ever: how long what that names would be good is not
    /// known here.
    pub fn revocation(self, now_unix_ms: i64) -> Revocation {
        match self.what {
            Revoked::Session(_) | Revoked::Key(_) => self.revocation_of(now_unix_ms, now_unix_ms),
            _ => self.remembered(None, now_unix_ms),
        }
    }

    /// It, from now on, where what it names begins no session after `exp_unix_ms`: it is remembered until the last of those is over.
    pub fn revocation_of(self, exp_unix_ms: i64, now_unix_ms: i64) -> Revocation {
        let last = exp_unix_ms.max(now_unix_ms).saturating_add(MAX_SESSION_MS);
        self.remembered(Some(last), now_unix_ms)
    }

    fn remembered(self, until_unix_ms: Option<i64>, now_unix_ms: i64) -> Revocation {
        Revocation {
            what: self.what,
            streams: self.streams,
            at_unix_ms: now_unix_ms,
            until_unix_ms,
        }
    }
}

/// A watch link that is wanted: the body of `POST /api/streams/{stream}/links`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WantedLink {
    /// What the owner calls it: no control characters, no spaces around it. It is the `sub` of its token.
    #[schemars(length(min = 1, max = MAX_LINK_NAME), regex(pattern = LINE))]
    pub name: String,
    /// How long new viewers may begin with it, seconds.
    pub for_s: u64,
    /// On how many devices at a time; on any number, when left out.
    #[serde(default)]
    pub max: Option<std::num::NonZeroU32>,
    /// Whether it also lets its viewers write in the chat.
    #[serde(default)]
    pub chat: bool,
}

/// A watch link as its owner sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Link {
    /// Its token's id, by which it is revoked.
    pub jti: String,
    /// What the owner calls it.
    pub name: String,
    /// The token, which the fragment of the link carries.
    pub token: String,
    /// From when on it begins no new session, Unix seconds.
    pub exp: Seconds,
    /// On how many devices at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<std::num::NonZeroU32>,
    /// Whether it also lets its viewers write in the chat.
    pub chat: bool,
    /// When it was made, Unix milliseconds.
    pub created_unix_ms: i64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("jti", &self.jti)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Most watch links of a stream.
pub const MAX_LINKS: usize = 200;
/// The longest name of a watch link, characters.
const MAX_LINK_NAME: usize = 80;
/// The longest that a watch link begins sessions, seconds: ten years.
const MAX_LINK_S: u64 = 3_653 * DAY_S;

/// What somebody is called who watches with the studio link.
pub const STUDIO: &str = "studio";
/// It is used at once, and never given away.
const STUDIO_TOKEN_S: u64 = 60;

/// Why no token was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMinted {
    /// Whoever asks has no token that allows it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It would be no good token.
    #[error(transparent)]
    Mint(#[from] MintError),
}

/// Everything that decides over a token. Cheap to ask; a change makes a new one.
#[derive(Debug)]
pub struct Access {
    installation: String,
    keys: KeySet,
    keyring: Keyring,
    /// With when each retires, Unix milliseconds.
    sessions: Vec<(SessionKey, Option<i64>)>,
}

impl Access {
    /// For this installation, with its own keys and those of others that it trusts.
    ///
    /// # Errors
    /// [`KeyError`] when a key is none, or two have one id.
    pub fn new(installation: &str, keyring: Keyring, issuers: &[Issuer]) -> Result<Self, KeyError> {
        let mut keys = KeySet::default();
        for key in keyring.trusted(installation)? {
            keys.trust(key)?;
        }
        for issuer in issuers {
            let Issuer {
                issuer,
                public_key,
                kid,
                tenant,
            } = issuer;
            if issuer == installation {
                return Err(KeyError::Own(issuer.clone()));
            }
            keys.trust(VerifyingKey::new(
                issuer,
                tenant,
                public_key,
                kid.as_deref(),
                None,
            )?)?;
        }
        Ok(Self {
            installation: installation.to_owned(),
            keys,
            sessions: keyring.sessions(),
            keyring,
        })
    }

    /// The public keys of this installation's own tokens.
    pub fn jwks(&self, now_unix_ms: i64) -> Jwks {
        self.keys.jwks(&self.installation, now_unix_ms)
    }

    /// A token that lets its bearer do this.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(
        &self,
        token: &str,
        ask: &Ask<'_>,
        revoked: &Revocations,
        now_unix_ms: i64,
    ) -> Result<Grant, Refusal> {
        let grant = self.keys.verify(token, &self.installation, now_unix_ms)?;
        revoked.refuse_ask(&grant, ask)?;
        grant.allows(ask)?;
        Ok(grant)
    }

    /// A token that lets its bearer manage all of these streams.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn manages(
        &self,
        token: &str,
        streams: &StreamPattern,
        address: IpAddr,
        revoked: &Revocations,
        now_unix_ms: i64,
    ) -> Result<Grant, Refusal> {
        let grant = self.keys.verify(token, &self.installation, now_unix_ms)?;
        revoked.refuse_manager(&grant)?;
        grant.allows_all(Action::Manage, streams, address)?;
        Ok(grant)
    }

    /// Begins a playback session for somebody who has a token that lets them watch. `random` becomes its id.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn begin(
        &self,
        token: &str,
        ask: &Ask<'_>,
        revoked: &Revocations,
        random: [u8; 12],
        now_unix_ms: i64,
    ) -> Result<(Grant, Session), Refusal> {
        let grant = self.check(token, ask, revoked, now_unix_ms)?;
        let session = Session::begin(&grant, random, now_unix_ms);
        Ok((grant, session))
    }

    /// A session's segment of the addresses.
    ///
    /// # Errors
    /// [`Refusal::TooLong`].
    pub fn sign_session(&self, stream: &StreamName, session: &Session) -> Result<String, Refusal> {
        let (key, _) = self.sessions.first().ok_or(Refusal::Key)?;
        key.sign(stream, session)
    }

    /// Begins a playback session for somebody who has the studio link of a stream: of a token of the id `jti`, by which all of them are
    /// ended with the link ([`Self::revoke_studio`]). `random` becomes the session's id.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn begin_in_studio(
        &self,
        jti: Tag,
        ask: &Ask<'_>,
        revoked: &Revocations,
        random: [u8; 12],
        now_unix_ms: i64,
    ) -> Result<(Grant, Session), Refusal> {
        let wanted = Wanted {
            stream: ask.stream.clone().into(),
            act: ask.action.into(),
            sub: Some(STUDIO.to_owned()),
            for_s: Some(STUDIO_TOKEN_S),
            session_s: None,
            ip: Vec::new(),
            max: None,
        };
        let minted = self.mint_as_owner(&wanted, revoked, *jti.as_bytes(), now_unix_ms);
        let minted = minted.map_err(|_| Refusal::Malformed)?;
        self.begin(&minted.token, ask, revoked, random, now_unix_ms)
    }

    /// What ends the sessions of the studio link of a stream.
    pub fn revoke_studio(
        &self,
        stream: &StreamName,
        jti: Tag,
        tenants: &Tenants,
        revoked: &Revocations,
        now_unix_ms: i64,
    ) -> Revocation {
        // Nobody has its token but whom it was made for in the same request.
        self.own(stream, jti.to_string())
            .folded_by_owner(tenants, revoked)
            .revocation_of(now_unix_ms, now_unix_ms)
    }

    /// The playback session that an address names, if it may go on.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn session(
        &self,
        text: &str,
        stream: &StreamName,
        address: IpAddr,
        revoked: &Revocations,
        now_unix_ms: i64,
    ) -> Result<Session, Refusal> {
        let in_use =
            (self.sessions.iter()).filter(|(_, retires)| retires.is_none_or(|at| at > now_unix_ms));
        let mut refusal = Refusal::Signature;
        for (key, _) in in_use {
            match key.read(stream, text) {
                Ok(session) => {
                    session.check(address, now_unix_ms)?;
                    revoked.refuse_session(&session, stream)?;
                    return Ok(session);
                }
                Err(refused) => refusal = refused,
            }
        }
        Err(refusal)
    }

    /// Whether a playback session that needs no address may go on: one by WebRTC, which is looked at while it runs. The key that signed it is
    /// the one that was in use when it began.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn still_watches(
        &self,
        session: &Session,
        stream: &StreamName,
        revoked: &Revocations,
        now_unix_ms: i64,
    ) -> Result<(), Refusal> {
        if session.ends_unix_ms <= now_unix_ms {
            return Err(Refusal::Expired);
        }
        let keys = self.keyring.times();
        let signer = (keys.iter()).find(|(since, _)| *since <= session.begun_unix_ms);
        match signer {
            Some((_, retires)) if retires.is_none_or(|at| at > now_unix_ms) => {
                revoked.refuse_session(session, stream)
            }
            _ => Err(Refusal::Key),
        }
    }

    /// Somebody who comes with a token, over HTTP.
    ///
    /// # Errors
    /// [`Refusal`] when it is not a good one; what it is good for is to be asked of the [`Bearer`].
    pub fn bearer<'a>(
        &self,
        token: &str,
        address: IpAddr,
        revoked: &'a Revocations,
        now_unix_ms: i64,
    ) -> Result<Bearer<'a>, Refusal> {
        let grant = self.read(token, now_unix_ms)?;
        Ok(Bearer::new(grant, address, revoked))
    }

    /// A token that is good, unless it was taken back.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn read(&self, token: &str, now_unix_ms: i64) -> Result<Grant, Refusal> {
        self.keys.verify(token, &self.installation, now_unix_ms)
    }

    /// Whether what a publisher of this stream was let in with still holds.
    ///
    /// # Errors
    /// [`Refusal::Revoked`]; [`Refusal::Key`] where the key that signed it is no longer trusted.
    pub fn still_publishes(
        &self,
        credential: &Credential,
        stream: &StreamName,
        revoked: &Revocations,
        now_unix_ms: i64,
    ) -> Result<(), Refusal> {
        let signer = credential.signer.as_ref();
        if signer.is_some_and(|signer| !self.keys.trusts(signer, now_unix_ms)) {
            return Err(Refusal::Key);
        }
        revoked.refuse_publisher(credential, stream)
    }

    /// The stream that somebody who came with a token in the place of a stream key may publish.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::Stream`] also when neither token nor address names one stream.
    pub fn publish(
        &self,
        question: &Admit,
        revoked: &Revocations,
        now_unix_ms: i64,
    ) -> Result<(StreamName, Grant), Refusal> {
        let grant = (self.keys).verify(&question.key, &self.installation, now_unix_ms)?;
        let stream = (question.stream.clone())
            .or_else(|| grant.claims().stream.name())
            .ok_or(Refusal::Stream)?;
        revoked.refuse(&grant.holder(), &stream)?;
        grant.allows(&Ask {
            action: Action::Publish,
            stream: &stream,
            address: address(&question.peer).ok_or(Refusal::Address)?,
        })?;
        Ok((stream, grant))
    }

    /// A token for somebody who has one that lets them manage all of those streams. `random` becomes its id. It ends with the one that it
    /// was asked for with, with the key that signed that one, and after 30 days; where it lets somebody manage, it can be used from no
    /// more networks.
    ///
    /// # Errors
    /// [`NotMinted`]; [`Refusal::Address`] also for networks that whoever asks may not use.
    pub fn mint(
        &self,
        bearer: &str,
        address: IpAddr,
        wanted: &Wanted,
        revoked: &Revocations,
        random: [u8; 12],
        now_unix_ms: i64,
    ) -> Result<Minted, NotMinted> {
        let grant = self.manages(bearer, &wanted.stream, address, revoked, now_unix_ms)?;
        let holder = grant.claims();
        let retires = grant.key_retires_unix_ms().map(Seconds::of_unix_ms);
        let longest = after(now_unix_ms, DELEGATED_S);
        let ends = [Some(holder.exp), holder.sess_exp, retires, Some(longest)];
        let mut wanted = wanted.clone();
        if wanted.act.contains(Action::Manage) && !holder.ip.is_empty() {
            if wanted.ip.is_empty() {
                wanted.ip.clone_from(&holder.ip);
            }
            let usable = |net: &ipnet::IpNet| holder.ip.iter().any(|own| own.contains(net));
            if !wanted.ip.iter().all(usable) {
                return Err(Refusal::Address.into());
            }
        }
        let bounds = Bounds {
            holder: &holder.sub,
            last: ends.into_iter().flatten().min(),
            session: holder.sess_exp,
        };
        self.sign(&wanted, &bounds, revoked, random, now_unix_ms)
    }

    /// A token, at the owner's word.
    ///
    /// # Errors
    /// [`NotMinted::Mint`].
    pub fn mint_as_owner(
        &self,
        wanted: &Wanted,
        revoked: &Revocations,
        random: [u8; 12],
        now_unix_ms: i64,
    ) -> Result<Minted, NotMinted> {
        let bounds = Bounds {
            holder: "owner",
            last: None,
            session: None,
        };
        self.sign(wanted, &bounds, revoked, random, now_unix_ms)
    }

    /// A watch link of a stream, at its owner's word: its claims, to be kept.
    ///
    /// # Errors
    /// [`NotMinted::Mint`] for a name that is none.
    pub fn make_link(
        &self,
        stream: &StreamName,
        wanted: &WantedLink,
        revoked: &Revocations,
        random: [u8; 12],
        now_unix_ms: i64,
    ) -> Result<(Claims, Link), NotMinted> {
        let name = wanted.name.as_str();
        if !is_line(name, MAX_LINK_NAME) {
            return Err(MintError::Text.into());
        }
        let chat = wanted.chat.then_some(Action::Chat);
        let act = Actions::new([Action::Watch].into_iter().chain(chat));
        let mut claims = Claims {
            iss: self.installation.clone(),
            aud: Audience::One(self.installation.clone()),
            sub: name.to_owned(),
            stream: stream.clone().into(),
            act: act.unwrap_or(Action::Watch.into()),
            nbf: None,
            iat: None,
            exp: after(now_unix_ms, wanted.for_s.min(MAX_LINK_S)),
            sess_exp: None,
            ip: Vec::new(),
            max: wanted.max,
            jti: Tag::from_bytes(random).to_string(),
        };
        claims.iat = Some(revoked.issue(&claims, now_unix_ms));
        let link = self.link(&claims, now_unix_ms)?;
        Ok((claims, link))
    }

    /// A watch link that was made before: its claims, signed again.
    ///
    /// # Errors
    /// [`MintError`] when this installation has got another name.
    pub fn link(&self, claims: &Claims, created_unix_ms: i64) -> Result<Link, MintError> {
        Ok(Link {
            token: self.keyring.signer(&self.installation).mint(claims)?,
            jti: claims.jti.clone(),
            name: claims.sub.clone(),
            exp: claims.exp,
            max: claims.max,
            chat: claims.act.contains(Action::Chat),
            created_unix_ms,
        })
    }

    /// What takes a watch link of a stream back, which begins no new session after `exp`.
    pub fn revoke_link(
        &self,
        stream: &StreamName,
        jti: String,
        exp: Option<Seconds>,
        tenants: &Tenants,
        revoked: &Revocations,
        now_unix_ms: i64,
    ) -> Revocation {
        let own = self.own(stream, jti);
        let taken_back = own.folded_by_owner(tenants, revoked);
        match exp {
            Some(exp) => taken_back.revocation_of(exp.unix_ms(), now_unix_ms),
            None => taken_back.revocation(now_unix_ms),
        }
    }

    fn own(&self, stream: &StreamName, jti: String) -> TakeBack {
        TakeBack {
            what: Revoked::Token {
                iss: self.installation.clone(),
                jti,
            },
            streams: stream.clone().into(),
        }
    }

    fn sign(
        &self,
        wanted: &Wanted,
        bounds: &Bounds<'_>,
        revoked: &Revocations,
        random: [u8; 12],
        now_unix_ms: i64,
    ) -> Result<Minted, NotMinted> {
        let ahead = |seconds: u64| {
            let at = after(now_unix_ms, seconds);
            bounds.last.map_or(at, |last| at.min(last))
        };
        let mut claims = Claims {
            iss: self.installation.clone(),
            aud: Audience::One(self.installation.clone()),
            sub: (wanted.sub.clone()).unwrap_or_else(|| bounds.holder.to_owned()),
            stream: wanted.stream.clone(),
            act: wanted.act,
            nbf: None,
            iat: None,
            exp: ahead(wanted.for_s.unwrap_or(DAY_S)),
            sess_exp: wanted.session_s.map(ahead).or(bounds.session),
            ip: wanted.ip.clone(),
            max: wanted.max,
            jti: data_encoding::BASE64URL_NOPAD.encode(&random),
        };
        claims.iat = Some(revoked.issue(&claims, now_unix_ms));
        let token = self.keyring.signer(&self.installation).mint(&claims)?;
        Ok(Minted {
            token,
            jti: claims.jti,
            exp: claims.exp,
        })
    }
}

/// What a new token owes to whoever asked for it.
struct Bounds<'a> {
    /// Whom it is for where nobody is named.
    holder: &'a str,
    /// When it ends at the latest.
    last: Option<Seconds>,
    /// When its sessions end where nothing is said.
    session: Option<Seconds>,
}

/// So many seconds from now.
fn after(now_unix_ms: i64, seconds: u64) -> Seconds {
    let ms = i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
    Seconds::of_unix_ms(now_unix_ms.saturating_add(ms))
}

/// Whether a publisher's key is a token: a static key has no dot, and a token two.
pub fn is_token(key: &str) -> bool {
    key.contains('.')
}

/// The address of a peer, `address:port` or an address alone.
pub fn address(peer: &str) -> Option<IpAddr> {
    let socket = peer.parse().map(|socket: std::net::SocketAddr| socket.ip());
    socket.or_else(|_| peer.parse()).ok()
}
