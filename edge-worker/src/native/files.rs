//! Files of the native edge: written whole under another name, made durable, then renamed, so that a crash leaves the old or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use protocol::names::BroadcastId;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system says no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
    |source| FileError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Creates the folder with mode 0700 if it is absent.
pub(super) fn make_folder(path: &Path) -> Result<(), FileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(io_error(path))
}

/// Writes the file with mode 0600, whole or not at all; durable on return.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = folder.join(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new).map_err(io_error(&new))?;
    file.write_all(bytes).map_err(io_error(&new))?;
    file.sync_all().map_err(io_error(&new))?;
    fs::rename(&new, path).map_err(io_error(path))?;
    // The rename itself is durable once the folder is.
    let folder_synced = File::open(folder).and_then(|f| f.sync_all());
    folder_synced.map_err(io_error(folder))
}

/// Takes a file with secrets from everybody but its owner: one that was copied here has the mode that it had there.
pub(super) fn close(path: &Path) -> Result<(), FileError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(path).map_err(io_error(path))?.permissions();
        if mode.mode() & 0o077 != 0 {
            let closed = fs::Permissions::from_mode(0o600);
            fs::set_permissions(path, closed).map_err(io_error(path))?;
            tracing::warn!(file = %path.display(), "others on this machine could read a file with secrets: it has mode 0600 now");
        }
    }
    Ok(())
}

fn snapshots(folder: &Path) -> PathBuf {
    folder.join("broadcasts")
}

/// Where a broadcast's snapshot lies.
pub(super) fn snapshot_path(folder: &Path, id: &BroadcastId) -> PathBuf {
    snapshots(folder).join(format!("{id}.json"))
}

/// All snapshots there are.
pub(super) fn load_snapshots(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, FileError> {
    let folder = snapshots(folder);
    make_folder(&folder)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(io_error(&folder))? {
        let path = entry.map_err(io_error(&folder))?.path();
        if path.extension().is_some_and(|e| e == "json") {
            found.push((path.clone(), fs::read(&path).map_err(io_error(&path))?));
        }
    }
    Ok(found)
}

/// Removes a snapshot; one that is absent is removed.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a broadcast's snapshot stays behind");
    }
}
