//! The streams of a box whose edge is elsewhere: kept in the box's own data folder, and given to the edge.
//!
//! The edge decides who may publish, so once it knows a stream its key is the one in force: the studio page, which the edge serves, may
//! have given the stream another. What is changed here, by `ghost-live key rotate`, is put to the edge at once.

use std::{collections::BTreeMap, path::Path, time::Duration};

use edge_worker::{
    directory::{Stream, StreamEntry, settings::Change},
    native::{Database, DatabaseError, Shared},
};
use media_core::{
    edge::{Edge as _, EdgeError},
    publish::{RemoteEdge, StudioKey},
};
use protocol::{internal::Admit, names::StreamName};
use tokio_util::sync::CancellationToken;

use crate::up;

/// How often the directory is looked at for what `key rotate` of another process changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Waits after an edge that did not answer: doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(15);

/// The box's streams in its folder, with what the configuration says of them; those that are not there yet are made, with new keys.
///
/// # Errors
/// When the folder cannot be used.
pub(crate) fn ensure(
    folder: &Path,
    streams: &BTreeMap<StreamName, Change>,
) -> Result<Database, DatabaseError> {
    let mut database = Database::open(folder)?;
    let now = up::unix_ms();
    for (name, configured) in streams {
        database.ensure(name, configured, now)?;
    }
    Ok(database)
}

/// What the configuration said of a stream last.
fn configured(stream: &Stream) -> Option<Change> {
    serde_json::from_str(stream.configured.as_deref()?).ok()
}

/// Brings a stream to the edge, or takes over the key that the edge has for it, and the studio link. Also whether the entry changed.
///
/// # Errors
/// As [`RemoteEdge::put_stream`].
async fn agree(edge: &RemoteEdge, entry: &mut StreamEntry) -> Result<bool, EdgeError> {
    match edge.stream_key(&entry.name, &entry.studio_secret).await? {
        StudioKey::Shown(key) => return Ok(entry.adopt_key(&key)),
        StudioKey::Hidden if !opens(edge, entry).await? => {
            tracing::warn!(stream = %entry.name, "the edge has another key for the stream and cannot show it: `ghost-live key rotate` gives it a new one");
        }
        // Where the edge cannot show the key, it can again once it is given it again.
        StudioKey::Hidden => return put(edge, entry).await,
        StudioKey::Unknown => {
            let Some(secret) = edge.put_stream(&entry.name, entry).await? else {
                return Ok(false);
            };
            // Logged out of since: only now the edge says which key is in force.
            entry.studio_secret = secret;
            match edge.stream_key(&entry.name, &entry.studio_secret).await? {
                StudioKey::Shown(key) if entry.adopt_key(&key) || key == entry.key.reveal() => {}
                _ => drop(edge.put_stream(&entry.name, entry).await?),
            }
            return Ok(true);
        }
    }
    Ok(false)
}

/// Brings a stream to the edge whose key here is the newer one. Where the edge's studio page was logged out of since, its studio link is
/// taken over first; whether it was.
///
/// # Errors
/// As [`RemoteEdge::put_stream`].
pub(crate) async fn put(edge: &RemoteEdge, entry: &mut StreamEntry) -> Result<bool, EdgeError> {
    let Some(secret) = edge.put_stream(&entry.name, entry).await? else {
        return Ok(false);
    };
    entry.studio_secret = secret;
    edge.put_stream(&entry.name, entry).await?;
    Ok(true)
}

/// Whether the entry's key is the one that is in force at the edge.
async fn opens(edge: &RemoteEdge, entry: &StreamEntry) -> Result<bool, EdgeError> {
    let question = Admit {
        key: entry.key.reveal(),
        stream: Some(entry.name.clone()),
        peer: String::new(),
        protocol: None,
        probe: true,
    };
    match edge.admit(question).await {
        Ok(_) => Ok(true),
        Err(EdgeError::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Keeps the edge's streams as the box's folder has them.
#[derive(Debug)]
pub(crate) struct Keeper {
    edge: RemoteEdge,
    database: Shared,
    /// As the box kept them when the edge was given them.
    given: BTreeMap<StreamName, Stream>,
}

impl Keeper {
    /// For the streams of this directory.
    pub(crate) fn new(edge: RemoteEdge, database: Database) -> Self {
        Self {
            edge,
            database: Shared::new(database),
            given: BTreeMap::new(),
        }
    }

    /// Gives the edge what it does not have yet, once.
    ///
    /// # Errors
    /// When the edge does not answer or refuses, or the folder cannot be used.
    pub(crate) async fn give(&mut self) -> anyhow::Result<()> {
        let read = |database: &mut Database| Ok((database.directory()?, database.seal().clone()));
        let (directory, seal) = self.database.with(read).await?;
        for stream in directory.streams() {
            let before = self.given.get(&stream.name);
            if before == Some(stream) {
                continue;
            }
            let mut kept = stream.clone();
            match stream.open(&seal) {
                Ok(mut entry) => {
                    let changed = match before {
                        Some(_) => put(&self.edge, &mut entry).await?,
                        None => agree(&self.edge, &mut entry).await?,
                    };
                    if changed {
                        let (name, put) = (entry.name.clone(), entry);
                        let taken_over = self.database.with(move |database| {
                            database.put(&put, true)?;
                            Ok(database.known().stream(&put.name).cloned())
                        });
                        kept = taken_over.await?.unwrap_or(kept);
                        tracing::info!(stream = %name, "the edge has another key or studio link for the stream: it is the one in force");
                    }
                }
                // The edge goes on with what it has.
                Err(closed) => {
                    tracing::warn!(
                        "{closed}: `ghost-live key rotate {}` gives it a new one",
                        stream.name
                    );
                }
            }
            // The edge leaves aside what it was told before: what its API changed since stays.
            if let Some(settings) = configured(stream) {
                self.edge.configure_stream(&stream.name, &settings).await?;
            }
            tracing::debug!(stream = %kept.name, "the edge knows the stream");
            self.given.insert(kept.name.clone(), kept);
        }
        Ok(())
    }

    /// As [`Self::give`], again and again until the edge answered.
    pub(crate) async fn give_until_answered(&mut self) {
        let mut wait = FIRST_RETRY;
        while let Err(error) = self.give().await {
            tracing::warn!(error = %format!("{error:#}"), ?wait, "the streams could not be given to the edge: trying again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_RETRY);
        }
    }

    /// Goes on giving what changes, until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let work = async {
            loop {
                self.give_until_answered().await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{net::Ipv4Addr, sync::Arc};

    use edge_worker::{directory::settings::Visibility, native as web};
    use media_core::publish::{Store, store};
    use protocol::{
        link_auth::LinkSecret,
        token::{Revocation, Revoked, Tag},
    };
    use tokio::net::TcpListener;

    use super::*;

    const SECRET: &str = "a secret of thirty-two characters";

    struct Remote {
        edge: web::Edge,
        address: String,
        stop: CancellationToken,
        running: Vec<tokio::task::JoinHandle<()>>,
    }

    /// A native edge that listens, with this folder.
    async fn remote(folder: &Path) -> Remote {
        let store = Store::open(&store::Config::default(), folder, None)
            .unwrap()
            .object_store()
            .unwrap();
        let config = web::Config {
            data: folder.join("edge"),
            link_secret: Some(SECRET.to_owned()),
            ..web::Config::default()
        };
        let edge = web::Edge::start(config, store, Arc::new(|_| None)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let (serves, stops) = (edge.clone(), stop.clone());
        let serves =
            tokio::spawn(async move { web::serve(listener, serves, None, None, stops).await });
        let (runs, stops) = (edge.clone(), stop.clone());
        let runs = tokio::spawn(async move { runs.run(stops).await });
        Remote {
            edge,
            address,
            stop,
            running: vec![serves, runs],
        }
    }

    impl Remote {
        async fn admits(&self, key: &str) -> bool {
            let question = Admit {
                key: key.to_owned(),
                stream: None,
                peer: "192.0.2.1:5000".to_owned(),
                ..Admit::default()
            };
            self.edge.admit(&question).await.is_ok()
        }

        async fn end(self) {
            self.stop.cancel();
            for task in self.running {
                task.await.unwrap();
            }
        }
    }

    /// Streams of which the configuration says no more than their names.
    fn plain(names: &[StreamName]) -> BTreeMap<StreamName, Change> {
        let streams = names.iter().cloned();
        streams.map(|name| (name, Change::default())).collect()
    }

    fn entry(folder: &Path) -> StreamEntry {
        let database = Database::open(folder).unwrap();
        let directory = database.known();
        let stream = directory.stream(&"main".parse().unwrap()).unwrap();
        stream.open(database.seal()).unwrap()
    }

    fn key(folder: &Path) -> String {
        entry(folder).key.reveal()
    }

    #[tokio::test]
    async fn a_box_gives_its_streams_and_takes_over_what_the_studio_changed() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let remote = remote(there.path()).await;
        let folder = here.path().join("edge");
        let names = ["main".parse().unwrap(), "second".parse().unwrap()];
        ensure(&folder, &plain(&names)).unwrap();
        let first = key(&folder);
        let database = ensure(&folder, &plain(&names)).unwrap();
        assert_eq!(database.known().streams().count(), 2);
        assert_eq!(key(&folder), first, "a second start keeps the key");

        let edge = RemoteEdge::new(&remote.address, LinkSecret::new(SECRET)).unwrap();
        let mut keeper = Keeper::new(edge.clone(), database);
        assert!(!remote.admits(&first).await);
        keeper.give().await.unwrap();
        assert!(remote.admits(&first).await);

        // Rotated by another process on the box: the running box notices.
        let mut other = Database::open(&folder).unwrap();
        other.rotate_key(&names[0], None).unwrap();
        keeper.give().await.unwrap();
        assert!(!remote.admits(&first).await && remote.admits(&key(&folder)).await);

        // Rotated in the studio, and the box starts again: the old key must not come back into force.
        let before = key(&folder);
        let studio = Some(format!("Bearer {}", entry(&folder).studio_secret));
        let studio = studio.as_deref();
        remote.edge.rotate_key(&names[0], studio).await.unwrap();
        let rotated = remote
            .edge
            .studio(&names[0], studio, Ipv4Addr::LOCALHOST.into())
            .await
            .unwrap()
            .key
            .unwrap();
        let database = ensure(&folder, &plain(&names)).unwrap();
        Keeper::new(edge, database).give().await.unwrap();
        assert_eq!(key(&folder), rotated);
        assert!(!remote.admits(&before).await && remote.admits(&rotated).await);

        // Logged out of in the studio, after another new key, and the box starts again: neither old one comes back.
        let old = entry(&folder).studio_secret;
        remote.edge.rotate_key(&names[0], studio).await.unwrap();
        let take_back = |jti: Tag| Revocation {
            what: Revoked::Session(jti),
            streams: names[0].clone().into(),
            at_unix_ms: 0,
            until_unix_ms: None,
        };
        let mut theirs = Database::open(&there.path().join("edge")).unwrap();
        theirs.log_out(&names[0], None, take_back, 0).unwrap();
        let edge = RemoteEdge::new(&remote.address, LinkSecret::new(SECRET)).unwrap();
        let database = ensure(&folder, &plain(&names)).unwrap();
        Keeper::new(edge, database).give().await.unwrap();
        let new = entry(&folder).studio_secret;
        assert_ne!(new, old);
        let opens = async |secret: &str| {
            let authorization = format!("Bearer {secret}");
            remote
                .edge
                .studio(&names[0], Some(&authorization), Ipv4Addr::LOCALHOST.into())
                .await
        };
        assert!(opens(&old).await.is_none());
        assert_eq!(opens(&new).await.unwrap().key, Some(key(&folder)));
        assert!(!remote.admits(&rotated).await && remote.admits(&key(&folder)).await);
        remote.end().await;
    }

    #[tokio::test]
    async fn an_edge_that_does_not_answer_or_has_another_secret_takes_nothing() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = here.path().join("edge");
        let names = ["main".parse().unwrap()];
        let database = ensure(&folder, &plain(&names)).unwrap();
        let remote = remote(there.path()).await;
        let stranger = RemoteEdge::new(&remote.address, LinkSecret::new("another secret")).unwrap();
        let refused = Keeper::new(stranger, database).give().await;
        assert!(refused.unwrap_err().to_string().contains("link secret"));
        assert!(!remote.admits(&key(&folder)).await);
        let (address, secret) = (remote.address.clone(), LinkSecret::new(SECRET));
        remote.end().await;
        let gone = RemoteEdge::new(&address, secret).unwrap();
        let database = ensure(&folder, &plain(&names)).unwrap();
        assert!(Keeper::new(gone, database).give().await.is_err());
    }

    #[tokio::test]
    async fn an_edge_that_lost_its_seal_is_given_the_key_in_force_again_and_no_older_one() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (folder, name) = (here.path().join("edge"), "main".parse().unwrap());
        let give = async |remote: &Remote| {
            let edge = RemoteEdge::new(&remote.address, LinkSecret::new(SECRET)).unwrap();
            let database = ensure(&folder, &plain(std::slice::from_ref(&name))).unwrap();
            Keeper::new(edge, database).give().await.unwrap();
        };
        let lose = async |remote: Remote| {
            remote.end().await;
            std::fs::remove_file(there.path().join("edge/seal-secret")).unwrap();
            super::tests::remote(there.path()).await
        };
        let first = remote(there.path()).await;
        give(&first).await;
        let (ours, studio) = (
            key(&folder),
            format!("Bearer {}", entry(&folder).studio_secret),
        );
        let shown = async |remote: &Remote| {
            let studio = remote
                .edge
                .studio(&name, Some(&studio), Ipv4Addr::LOCALHOST.into())
                .await;
            studio.unwrap().key
        };

        let second = lose(first).await;
        assert_eq!(shown(&second).await, None);
        give(&second).await;
        assert_eq!(shown(&second).await, Some(ours.clone()));

        // The studio changed the key before the seal was lost: the one that the box still has must not come back into force.
        second.edge.rotate_key(&name, Some(&studio)).await.unwrap();
        let changed = shown(&second).await.unwrap();
        let third = lose(second).await;
        give(&third).await;
        assert_eq!((shown(&third).await, key(&folder)), (None, ours.clone()));
        assert!(third.admits(&changed).await && !third.admits(&ours).await);
        third.end().await;
    }

    #[tokio::test]
    async fn a_box_that_lost_its_seal_leaves_the_edge_as_it_is() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (folder, names) = (here.path().join("edge"), ["main".parse().unwrap()]);
        let remote = remote(there.path()).await;
        let edge = RemoteEdge::new(&remote.address, LinkSecret::new(SECRET)).unwrap();
        let database = ensure(&folder, &plain(&names)).unwrap();
        Keeper::new(edge.clone(), database).give().await.unwrap();
        let before = key(&folder);
        std::fs::remove_file(folder.join("seal-secret")).unwrap();
        let mut keeper = Keeper::new(edge, ensure(&folder, &plain(&names)).unwrap());
        keeper.give().await.unwrap();
        assert!(remote.admits(&before).await);
        // A new key, with a new studio link since nobody has the old one, brings them together again.
        let mut other = Database::open(&folder).unwrap();
        assert!(other.rotate_key(&names[0], None).unwrap());
        keeper.give().await.unwrap();
        assert!(remote.admits(&key(&folder)).await && !remote.admits(&before).await);
        remote.end().await;
    }

    #[tokio::test]
    async fn what_the_configuration_says_of_a_stream_reaches_the_edge_once() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = here.path().join("edge");
        let name: StreamName = "main".parse().unwrap();
        let remote = remote(there.path()).await;
        let edge = RemoteEdge::new(&remote.address, LinkSecret::new(SECRET)).unwrap();
        let give = async |text: &str| {
            let change: Change = serde_json::from_str(text).unwrap();
            let streams = BTreeMap::from([(name.clone(), change)]);
            let database = ensure(&folder, &streams).unwrap();
            Keeper::new(edge.clone(), database).give().await.unwrap();
            let stream = remote.edge.stream(&name).unwrap();
            (stream.visibility, stream.limits.max_fps)
        };
        let first = r#"{"visibility": "unlisted", "limits": {"max_fps": 30}}"#;
        assert_eq!(give(first).await, (Visibility::Unlisted, Some(30)));
        // Changed at the edge: the next start of the box, with the same words, leaves that as it is.
        let changed = Change {
            visibility: Some(Visibility::Token),
            ..Change::default()
        };
        remote.edge.change_stream(&name, changed).await.unwrap();
        assert_eq!(give(first).await, (Visibility::Token, Some(30)));
        // Words that it has not heard are new; what they do not name stays.
        let second = r#"{"visibility": "public"}"#;
        assert_eq!(give(second).await, (Visibility::Public, Some(30)));
        remote.end().await;
    }
}
