//! Where objects go: a folder, an S3 bucket (R2 included) or the bucket of a remote edge.
//!
//! A put is all or nothing: a folder's object is written beside its place and renamed into it, an S3 object and one put through the edge
//! appear when their request is complete. Conditional puts are never relied on (not every S3 server honours them); the random tag in
//! every key makes them unnecessary.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    Attribute, Attributes, ClientOptions, ObjectStore, ObjectStoreExt, PutOptions, PutPayload,
    RetryConfig,
    aws::AmazonS3Builder,
    client::{HttpError, HttpErrorKind},
    local::LocalFileSystem,
    path::Path as StorePath,
};
use protocol::{
    names::{BroadcastId, StreamName},
    object_key::{ObjectKey, ObjectKind},
};
use serde::{Deserialize, Serialize};

use super::remote_edge::RemoteEdge;

/// `Cache-Control` of every object: keys are never written twice.
pub const CACHE_CONTROL: &str = "public, max-age=31536000, immutable";

/// Most deletions that a sweep has under way at once.
const SWEEP_DELETES: usize = 4;

/// Which kind of store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A folder on this machine.
    #[default]
    Local,
    /// A bucket of an S3-compatible server: AWS, R2, garage, …
    S3,
    /// The remote edge's own bucket, through its authenticated `PUT /internal/media/{key}`: for where no bucket keys are to be handed out.
    Edge,
}

/// `[store]` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which kind of store.
    pub kind: Kind,
    /// `kind = "local"`: the folder; relative to the data folder. Default: `media`.
    pub folder: Option<PathBuf>,
    /// `kind = "s3"`: the bucket.
    pub s3: S3,
}

/// `[store.s3]` of the configuration.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3 {
    /// Address of the server, such as `https://<account>.r2.cloudflarestorage.com`; absent for AWS.
    pub endpoint: Option<String>,
    /// Name of the bucket.
    pub bucket: String,
    /// Region; `auto` for R2. Default: `us-east-1`.
    pub region: String,
    /// Access key id. Default: the environment's `AWS_ACCESS_KEY_ID`.
    pub access_key_id: Option<String>,
    /// File whose first line is the secret access key. Default: the environment's `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key_file: Option<PathBuf>,
    /// Whether the bucket is named in the path (most self-hosted servers) and not in the host name. Default: true.
    pub path_style: bool,
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            endpoint: None,
            bucket: String::new(),
            region: "us-east-1".to_owned(),
            access_key_id: None,
            secret_access_key_file: None,
            path_style: true,
        }
    }
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// A key pair of an S3 server.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: String,
}

impl S3 {
    /// The key pair, from the files or the environment that the configuration names.
    ///
    /// # Errors
    /// [`StoreError::Config`] with what is missing.
    pub fn credentials(&self) -> Result<Credentials, StoreError> {
        let config = |text: String| StoreError::Config(text);
        let access_key_id = match &self.access_key_id {
            Some(id) => id.clone(),
            None => std::env::var("AWS_ACCESS_KEY_ID").map_err(|_| {
                config(
                    "store.s3.access_key_id is not set, nor AWS_ACCESS_KEY_ID in the environment"
                        .into(),
                )
            })?,
        };
        let secret_access_key = match &self.secret_access_key_file {
            Some(file) => std::fs::read_to_string(file)
                .map_err(|error| {
                    config(format!(
                        "store.s3.secret_access_key_file {} cannot be read: {error}",
                        file.display()
                    ))
                })?
                .lines()
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned(),
            None => std::env::var("AWS_SECRET_ACCESS_KEY").map_err(|_| {
                config(
                    "store.s3.secret_access_key_file is not set, nor AWS_SECRET_ACCESS_KEY in the environment"
                        .into(),
                )
            })?,
        };
        if access_key_id.is_empty() || secret_access_key.is_empty() {
            return Err(config("the key pair for store.s3 is empty".into()));
        }
        Ok(Credentials {
            access_key_id,
            secret_access_key,
        })
    }

    /// # Errors
    /// [`StoreError::Config`] when there is no bucket's name.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.bucket.is_empty() {
            return Err(StoreError::Config("store.s3.bucket is not set".into()));
        }
        match &self.endpoint {
            Some(endpoint)
                if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") =>
            {
                Err(StoreError::Config(format!(
                    "store.s3.endpoint {endpoint:?} is not an address that begins with https:// or http://"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Why an object was not put, or not deleted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// The store was not reached: nothing was written.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// The store failed; the object may have been written all the same.
    #[error("the store failed: {0}")]
    Failed(String),
    /// Nothing was heard in time; the object may have been written all the same.
    #[error("the store did not answer within {0:?}")]
    Slow(Duration),
    /// The store has no such operation.
    #[error("the store does not delete objects: let the bucket's lifecycle rules do it")]
    NoDelete,
}

impl StoreError {
    /// Whether it is certain that nothing was written, so that the key may be used for the next attempt.
    pub fn nothing_written(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Config(_))
    }
}

impl From<object_store::Error> for StoreError {
    fn from(error: object_store::Error) -> Self {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = source {
            if let Some(http) = inner.downcast_ref::<HttpError>()
                && http.kind() == HttpErrorKind::Connect
            {
                return Self::Unreachable(sentence(&error));
            }
            source = inner.source();
        }
        Self::Failed(sentence(&error))
    }
}

/// An error with its causes in one line of bounded length: an S3 server may answer with a page of XML.
pub(crate) fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    let line: Vec<&str> = text.split_whitespace().collect();
    line.join(" ").chars().take(400).collect()
}

/// Where objects go. Cheap to clone.
#[derive(Clone)]
pub struct Store(Backend);

#[derive(Clone)]
enum Backend {
    Object {
        store: Arc<dyn ObjectStore>,
        /// Whether the store keeps Content-Type and Cache-Control with an object (a folder does not; its reader knows them).
        attributes: bool,
        /// The folder, for one on this machine.
        folder: Option<Arc<Path>>,
    },
    Edge(RemoteEdge),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Backend::Object { store, .. } => write!(f, "Store({store})"),
            Backend::Edge(edge) => write!(f, "Store({edge:?})"),
        }
    }
}

impl Store {
    /// Opens what the configuration names. `data` is the data folder; `edge` the remote edge, where one is configured.
    ///
    /// # Errors
    /// [`StoreError::Config`] when it cannot work.
    pub fn open(
        config: &Config,
        data: &Path,
        edge: Option<&RemoteEdge>,
    ) -> Result<Self, StoreError> {
        match config.kind {
            Kind::Local => {
                let folder = config.folder.as_deref().unwrap_or(Path::new("media"));
                Self::local(&data.join(folder))
            }
            Kind::S3 => Self::s3(&config.s3),
            Kind::Edge => match edge {
                Some(edge) => Ok(Self(Backend::Edge(edge.clone()))),
                None => Err(StoreError::Config(
                    "store.kind is \"edge\", but no remote edge is configured".into(),
                )),
            },
        }
    }

    /// A folder on this machine; made if absent.
    ///
    /// # Errors
    /// [`StoreError::Config`] when it cannot be made.
    pub fn local(folder: &Path) -> Result<Self, StoreError> {
        let cannot = |error: &dyn std::fmt::Display| {
            StoreError::Config(format!(
                "the media folder {} cannot be used: {error}",
                folder.display()
            ))
        };
        std::fs::create_dir_all(folder).map_err(|error| cannot(&error))?;
        let folder = folder.canonicalize().map_err(|error| cannot(&error))?;
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|error| cannot(&error))?
            .with_automatic_cleanup(true);
        Ok(Self(Backend::Object {
            store: Arc::new(store),
            attributes: false,
            folder: Some(folder.into()),
        }))
    }

    /// A bucket of an S3-compatible server.
    ///
    /// # Errors
    /// [`StoreError::Config`] when a setting is missing or wrong; the server is not asked.
    pub fn s3(config: &S3) -> Result<Self, StoreError> {
        config.check()?;
        let credentials = config.credentials()?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            .with_access_key_id(credentials.access_key_id)
            .with_secret_access_key(credentials.secret_access_key)
            .with_virtual_hosted_style_request(!config.path_style)
            // The publisher tries again by itself: it knows what may be given up meanwhile, and takes a new key.
            .with_retry(RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            })
            .with_client_options(
                ClientOptions::new()
                    .with_allow_http(
                        config
                            .endpoint
                            .as_deref()
                            .is_some_and(|endpoint| endpoint.starts_with("http://")),
                    )
                    .with_connect_timeout(Duration::from_secs(3))
                    // The publisher's own deadline, which knows the size, is the one that counts.
                    .with_timeout(Duration::from_secs(120)),
            );
        if let Some(endpoint) = &config.endpoint {
            let endpoint = endpoint.trim_end_matches('/');
            builder = builder.with_endpoint(match config.path_style {
                true => endpoint.to_owned(),
                // In virtual-hosted style `object_store` takes the endpoint with the bucket already in it.
                false => endpoint.replacen("://", &format!("://{}.", config.bucket), 1),
            });
        }
        let store = builder
            .build()
            .map_err(|error| StoreError::Config(sentence(&error)))?;
        Ok(Self::with_object_store(Arc::new(store)))
    }

    /// What an edge in the same process reads from; `None` where objects go to a remote edge.
    pub fn object_store(&self) -> Option<Arc<dyn ObjectStore>> {
        match &self.0 {
            Backend::Object { store, .. } => Some(Arc::clone(store)),
            Backend::Edge(_) => None,
        }
    }

    /// Any store that keeps attributes with its objects.
    pub fn with_object_store(store: Arc<dyn ObjectStore>) -> Self {
        Self(Backend::Object {
            store,
            attributes: true,
            folder: None,
        })
    }

    /// Puts one object: the pieces in order, without copying them into one. It is readable when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::nothing_written`] tells whether the key may be used again.
    pub async fn put(&self, key: &ObjectKey, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Object {
                store, attributes, ..
            } => {
                let mut options = PutOptions::default();
                if *attributes {
                    options.attributes = Attributes::from_iter([
                        (Attribute::ContentType, content_type(key)),
                        (Attribute::CacheControl, CACHE_CONTROL),
                    ]);
                }
                let payload: PutPayload = pieces.into_iter().collect();
                store
                    .put_opts(&location(key), payload, options)
                    .await
                    .map(drop)
                    .map_err(StoreError::from)
            }
            Backend::Edge(edge) => edge.put_media(key, pieces).await,
        }
    }

    /// Deletes one object; that there is none is no error.
    ///
    /// # Errors
    /// [`StoreError`]: it may still be there.
    pub async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Object { store, .. } => match store.delete(&location(key)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            },
            Backend::Edge(edge) => edge.delete_media(key).await,
        }
    }

    /// Deletes what broadcasts left behind (a crash, a stop before the last deletions were due): every broadcast of the store whose
    /// newest object is older than `min_age` and that `keep` does not hold on to. A live broadcast of any box, on the same bucket, is
    /// safe: it has objects of the last seconds. Gives the number of broadcasts removed.
    ///
    /// The bucket of a remote edge is not swept from here; its lifecycle rules do that.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be listed; what was not deleted is found by the next sweep.
    pub async fn sweep(
        &self,
        min_age: Duration,
        keep: impl Fn(&BroadcastId) -> bool,
    ) -> Result<usize, StoreError> {
        let Backend::Object { store, folder, .. } = &self.0 else {
            return Ok(0);
        };
        let mut removed = 0;
        for stream in store.list_with_delimiter(None).await?.common_prefixes {
            if last_name::<StreamName>(&stream).is_none() {
                continue;
            }
            for broadcast in store
                .list_with_delimiter(Some(&stream))
                .await?
                .common_prefixes
            {
                let Some(id) = last_name::<BroadcastId>(&broadcast) else {
                    continue;
                };
                if keep(&id) || !self.is_old(store, &broadcast, min_age).await? {
                    continue;
                }
                store
                    .list(Some(&broadcast))
                    .map_err(StoreError::from)
                    .try_for_each_concurrent(SWEEP_DELETES, |object| async move {
                        // Only what this project wrote: a bucket may be shared.
                        if object.location.as_ref().parse::<ObjectKey>().is_err() {
                            return Ok(());
                        }
                        match store.delete(&object.location).await {
                            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                            Err(error) => Err(error.into()),
                        }
                    })
                    .await?;
                if let Some(folder) = folder {
                    remove_staged(folder.join(broadcast.as_ref())).await;
                }
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn is_old(
        &self,
        store: &Arc<dyn ObjectStore>,
        broadcast: &StorePath,
        min_age: Duration,
    ) -> Result<bool, StoreError> {
        let now = SystemTime::now();
        let mut objects = store.list(Some(broadcast));
        while let Some(object) = objects.next().await {
            let written = SystemTime::from(object?.last_modified);
            if now.duration_since(written).unwrap_or_default() < min_age {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a killed process left half-written beside its places (`{key}#{n}`, which no key can name), and then the empty folders.
async fn remove_staged(broadcast: PathBuf) {
    let result = tokio::task::spawn_blocking(move || {
        let Ok(tracks) = std::fs::read_dir(&broadcast) else {
            return;
        };
        for track in tracks.flatten().map(|entry| entry.path()) {
            for file in std::fs::read_dir(&track).into_iter().flatten().flatten() {
                if file.file_name().to_string_lossy().contains('#')
                    && let Err(error) = std::fs::remove_file(file.path())
                {
                    tracing::debug!(file = %file.path().display(), %error, "not removed");
                }
            }
            // Fails where something else still lies inside, which is then not ours.
            let _ = std::fs::remove_dir(&track);
        }
        let _ = std::fs::remove_dir(&broadcast);
        if let Some(stream) = broadcast.parent() {
            let _ = std::fs::remove_dir(stream);
        }
    })
    .await;
    if let Err(error) = result {
        tracing::debug!(%error, "removing folders was interrupted");
    }
}

fn last_name<T: std::str::FromStr>(prefix: &StorePath) -> Option<T> {
    prefix.parts().next_back()?.as_ref().parse().ok()
}

fn location(key: &ObjectKey) -> StorePath {
    StorePath::from(key.to_string())
}

/// Content-Type of an object.
pub fn content_type(key: &ObjectKey) -> &'static str {
    match (key.kind, key.track.is_video()) {
        // What players and CDNs expect of a CMAF track, header and segments alike (ISO/IEC 23000-19; RFC 8216bis section 3.1.1).
        (ObjectKind::Init { .. } | ObjectKind::Part { .. } | ObjectKind::Segment { .. }, true) => {
            "video/mp4"
        }
        (_, false) => "audio/mp4",
    }
}
