//! The streams of a box whose edge is elsewhere: kept in the box's own data folder, and given to the edge.
//!
//! The edge decides who may publish, so once it knows a stream its key is the one in force: the studio page, which the edge serves, may
//! have given the stream another. What is changed here, by `ghost-live key rotate`, is put to the edge at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use edge_worker::{
    directory::{Directory, StreamEntry},
    native as web,
};
use media_core::{edge::EdgeError, publish::RemoteEdge};
use protocol::names::StreamName;
use tokio_util::sync::CancellationToken;

/// How often the file is looked at for what `key rotate` of another process changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Waits after an edge that did not answer: doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(15);

/// The box's streams in its folder; those of `names` that are not there yet are made, with new keys.
///
/// # Errors
/// When the folder cannot be used.
pub(crate) fn ensure(folder: &Path, names: &[StreamName]) -> anyhow::Result<Directory> {
    let mut directory = web::load_directory(folder)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut changed = false;
    for name in names {
        let mut random = [[0; 16]; 3];
        for bytes in &mut random {
            getrandom::fill(bytes).context("the system gives no random bits")?;
        }
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        changed |= directory.ensure(name, random, now).1;
    }
    if changed {
        web::save_directory(folder, &directory)?;
    }
    Ok(directory)
}

/// Brings a stream's entry to the edge, or takes over the key that the edge has for it. Also whether the entry changed.
///
/// # Errors
/// As [`RemoteEdge::put_stream`].
pub(crate) async fn agree(edge: &RemoteEdge, entry: &mut StreamEntry) -> Result<bool, EdgeError> {
    match edge.stream_key(&entry.name, &entry.studio_secret).await? {
        Some(key) => Ok(entry.adopt_key(&key)),
        None => edge.put_stream(&entry.name, entry).await.map(|()| false),
    }
}

/// Keeps the edge's entries as the box's folder has them.
#[derive(Debug)]
pub(crate) struct Keeper {
    edge: RemoteEdge,
    folder: PathBuf,
    /// As the edge has them, as far as is known.
    given: BTreeMap<StreamName, StreamEntry>,
}

impl Keeper {
    /// For the streams of this folder.
    pub(crate) fn new(edge: RemoteEdge, folder: PathBuf) -> Self {
        Self {
            edge,
            folder,
            given: BTreeMap::new(),
        }
    }

    /// Gives the edge what it does not have yet, once.
    ///
    /// # Errors
    /// When the edge does not answer or refuses, or the folder cannot be used.
    pub(crate) async fn give(&mut self) -> anyhow::Result<()> {
        for mut entry in web::load_directory(&self.folder)?.streams().cloned() {
            match self.given.get(&entry.name) {
                Some(given) if *given == entry => continue,
                Some(_) => self.edge.put_stream(&entry.name, &entry).await?,
                None => {
                    if agree(&self.edge, &mut entry).await? {
                        // Read again: another process may have written it while the edge was asked.
                        let mut directory = web::load_directory(&self.folder)?;
                        directory.put(entry.clone())?;
                        web::save_directory(&self.folder, &directory)?;
                        tracing::info!(stream = %entry.name, "the edge has another key for the stream: it is the one in force");
                    }
                }
            }
            tracing::debug!(stream = %entry.name, "the edge knows the stream");
            self.given.insert(entry.name.clone(), entry);
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
    use std::sync::Arc;

    use media_core::publish::{Store, store};
    use protocol::{internal::Admit, link_auth::LinkSecret};
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
        fn admits(&self, key: &str) -> bool {
            let question = Admit {
                key: key.to_owned(),
                stream: None,
                peer: "192.0.2.1:5000".to_owned(),
            };
            self.edge.admit(&question).is_ok()
        }

        async fn end(self) {
            self.stop.cancel();
            for task in self.running {
                task.await.unwrap();
            }
        }
    }

    fn key(folder: &Path) -> String {
        let directory = web::load_directory(folder).unwrap();
        directory
            .stream(&"main".parse().unwrap())
            .unwrap()
            .key
            .clone()
    }

    #[tokio::test]
    async fn a_box_gives_its_streams_and_takes_over_what_the_studio_changed() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let remote = remote(there.path()).await;
        let folder = here.path().join("edge");
        let names = ["main".parse().unwrap(), "second".parse().unwrap()];
        ensure(&folder, &names).unwrap();
        let first = key(&folder);
        assert_eq!(ensure(&folder, &names).unwrap().streams().count(), 2);
        assert_eq!(key(&folder), first, "a second start keeps the key");

        let edge = RemoteEdge::new(&remote.address, LinkSecret::new(SECRET)).unwrap();
        let mut keeper = Keeper::new(edge.clone(), folder.clone());
        assert!(!remote.admits(&first));
        keeper.give().await.unwrap();
        assert!(remote.admits(&first));

        // Rotated by another process on the box: the running box notices.
        let mut directory = web::load_directory(&folder).unwrap();
        directory.rotate_key(&names[0], [7; 16]).unwrap();
        web::save_directory(&folder, &directory).unwrap();
        keeper.give().await.unwrap();
        assert!(!remote.admits(&first) && remote.admits(&key(&folder)));

        // Rotated in the studio, and the box starts again: the old key must not come back into force.
        let before = key(&folder);
        let rotated = remote.edge.rotate_key(&names[0]).unwrap().key;
        Keeper::new(edge, folder.clone()).give().await.unwrap();
        assert_eq!(key(&folder), rotated);
        assert!(!remote.admits(&before) && remote.admits(&rotated));
        remote.end().await;
    }

    #[tokio::test]
    async fn an_edge_that_does_not_answer_or_has_another_secret_takes_nothing() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = here.path().join("edge");
        ensure(&folder, &["main".parse().unwrap()]).unwrap();
        let remote = remote(there.path()).await;
        let stranger = RemoteEdge::new(&remote.address, LinkSecret::new("another secret")).unwrap();
        let refused = Keeper::new(stranger, folder.clone()).give().await;
        assert!(refused.unwrap_err().to_string().contains("link secret"));
        assert!(!remote.admits(&key(&folder)));
        let (address, secret) = (remote.address.clone(), LinkSecret::new(SECRET));
        remote.end().await;
        let gone = RemoteEdge::new(&address, secret).unwrap();
        assert!(Keeper::new(gone, folder).give().await.is_err());
    }
}
