//! Files of the native edge: written whole under another name, made durable, then renamed, so that a crash leaves the old or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use protocol::names::BroadcastId;

use crate::directory::Directory;

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
    /// Its text is not what it should be.
    #[error("{path} is not readable as what it should be: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
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

/// Where the directory lies in the edge's folder.
pub(super) fn directory_path(folder: &Path) -> PathBuf {
    folder.join("directory.json")
}

/// Reads the directory of that edge folder; an empty one where there is no file yet.
///
/// # Errors
/// [`FileError`] when there is a file that cannot be read.
pub fn load_directory(folder: &Path) -> Result<Directory, FileError> {
    let path = directory_path(folder);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Directory::default()),
        Err(error) => return Err(io_error(&path)(error)),
    };
    serde_json::from_slice(&bytes).map_err(|source| FileError::Format { path, source })
}

/// Writes the directory into that edge folder, mode 0600: it has the stream keys. A running edge reads it again when it is next asked.
///
/// # Errors
/// [`FileError`] when it cannot be written.
pub fn save_directory(folder: &Path, directory: &Directory) -> Result<(), FileError> {
    make_folder(folder)?;
    let path = directory_path(folder);
    let bytes = serde_json::to_vec_pretty(directory);
    let bytes = bytes.map_err(|source| FileError::Format {
        path: path.clone(),
        source,
    })?;
    write(&path, &bytes)
}

/// When the file was written, to notice that another process did.
pub(super) fn stamp(path: &Path) -> Option<(std::time::SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
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
