//! The files of the spool: one a segment, in a folder a broadcast. What is in them is of no use after a crash (its keys and its place
//! in the order died with the process), so a folder that is found at the start is removed.

use std::{
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use protocol::names::BroadcastId;

use super::queue::SpoolFile;

/// The spool of one broadcast.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    folder: PathBuf,
}

impl Spool {
    pub(crate) fn new(root: &Path, broadcast: &BroadcastId) -> Self {
        Self {
            folder: root.join(broadcast.as_str()),
        }
    }

    fn path(&self, file: &SpoolFile) -> PathBuf {
        self.folder.join(format!("{}.{}", file.msn, file.track))
    }

    pub(crate) async fn write(&self, file: &SpoolFile, offset: u64, data: Bytes) -> io::Result<()> {
        let path = self.path(file);
        blocking(move || {
            let open = || {
                std::fs::OpenOptions::new()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .open(&path)
            };
            let file = match (open(), path.parent()) {
                (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(folder)?;
                    open()?
                }
                (result, _) => result?,
            };
            file.write_all_at(&data, offset)
        })
        .await
    }

    pub(crate) async fn read(
        &self,
        file: &SpoolFile,
        offset: u64,
        len: usize,
    ) -> io::Result<Bytes> {
        let path = self.path(file);
        blocking(move || {
            let mut data = vec![0; len];
            std::fs::File::open(path)?.read_exact_at(&mut data, offset)?;
            Ok(Bytes::from(data))
        })
        .await
    }

    pub(crate) async fn remove(&self, file: &SpoolFile) -> io::Result<()> {
        let path = self.path(file);
        blocking(move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    /// Removes the folder with all that is in it.
    pub(crate) fn clear(&self) {
        remove_folder(&self.folder);
    }
}

/// Removes what crashed processes left in the spool: to be called once at the start, before anything is published.
pub fn clean(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // Only what this project made.
        if name
            .to_str()
            .is_some_and(|name| name.parse::<BroadcastId>().is_ok())
        {
            tracing::info!(folder = %entry.path().display(), "removing the spool of a broadcast that ended in a crash");
            remove_folder(&entry.path());
        }
    }
}

fn remove_folder(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "the spool folder was not removed");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}
