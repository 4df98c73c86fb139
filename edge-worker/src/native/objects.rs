//! Objects from the store, recent ones from memory. However many viewers ask for a part, it is fetched from the store once.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Attribute, Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path,
};
use protocol::{names::StreamName, object_key::ObjectKey};
use tokio::sync::OnceCell;

use super::lock;

/// Why an object is not given.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObjectError {
    /// It is not there.
    #[error("the object is not in the store")]
    Absent,
    /// Another object has the key.
    #[error("an object is never written twice")]
    Exists,
    /// The store does not answer.
    #[error("the object store failed: {0}")]
    Store(object_store::Error),
}

impl From<object_store::Error> for ObjectError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Absent,
            error => Self::Store(error),
        }
    }
}

type Cell = Arc<OnceCell<Bytes>>;

/// Recent objects, oldest dropped first when they are too many bytes.
#[derive(Debug, Default)]
struct Recent {
    cells: HashMap<ObjectKey, Cell>,
    order: VecDeque<(ObjectKey, usize)>,
    bytes: usize,
}

/// The store, and what is in memory of it.
#[derive(Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    recent: Mutex<Recent>,
    capacity: usize,
}

fn path(key: &ObjectKey) -> Path {
    Path::from(key.to_string())
}

/// `Content-Type` of an object.
pub(super) fn content_type(key: &ObjectKey) -> &'static str {
    if key.track.is_video() {
        "video/mp4"
    } else {
        "audio/mp4"
    }
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, capacity: usize) -> Self {
        Self {
            store,
            recent: Mutex::default(),
            capacity,
        }
    }

    /// The object, from memory or the store.
    pub(super) async fn get(&self, key: &ObjectKey) -> Result<Bytes, ObjectError> {
        let cell = lock(&self.recent)
            .cells
            .entry(key.clone())
            .or_default()
            .clone();
        if let Some(bytes) = cell.get() {
            return Ok(bytes.clone());
        }
        let fetched = cell.get_or_try_init(|| async {
            let bytes = self.store.get(&path(key)).await?.bytes().await?;
            self.keep(key, bytes.len());
            Ok::<_, ObjectError>(bytes)
        });
        match fetched.await {
            Ok(bytes) => Ok(bytes.clone()),
            Err(error) => {
                self.forget_empty(key);
                Err(error)
            }
        }
    }

    /// An object that is known to be in the store, so that the first viewer finds it in memory.
    pub(super) fn warm(&self, key: &ObjectKey, bytes: Bytes) {
        let size = bytes.len();
        let cell = lock(&self.recent)
            .cells
            .entry(key.clone())
            .or_default()
            .clone();
        if cell.set(bytes).is_ok() {
            self.keep(key, size);
        }
    }

    fn keep(&self, key: &ObjectKey, size: usize) {
        let mut recent = lock(&self.recent);
        recent.order.push_back((key.clone(), size));
        recent.bytes += size;
        while recent.bytes > self.capacity {
            let Some((key, size)) = recent.order.pop_front() else {
                break;
            };
            recent.bytes -= size;
            recent.cells.remove(&key);
        }
    }

    /// A fetch that failed leaves no cell behind, unless another one is under way in it.
    fn forget_empty(&self, key: &ObjectKey) {
        let mut recent = lock(&self.recent);
        if recent.cells.get(key).is_some_and(|c| !c.initialized()) {
            recent.cells.remove(key);
        }
    }

    /// Puts a new object. The same bytes again are fine: the answer to the first put may have been lost.
    pub(super) async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), ObjectError> {
        let at = path(key);
        // Not every store honours a conditional put, so it is asked as well.
        match self.store.get(&at).await {
            Ok(there) => {
                return match there.bytes().await? == bytes {
                    true => Ok(()),
                    false => Err(ObjectError::Exists),
                };
            }
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, content_type(key).into());
        attributes.insert(
            Attribute::CacheControl,
            crate::routes::Caching::Immutable.value().into(),
        );
        let create = PutOptions {
            mode: PutMode::Create,
            attributes: attributes.clone(),
            ..PutOptions::default()
        };
        let put = match self.store.put_opts(&at, bytes.clone().into(), create).await {
            Err(
                object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. },
            ) => {
                // A local folder knows no attributes, some stores no conditional put.
                let create = PutOptions::from(PutMode::Create);
                self.store.put_opts(&at, bytes.clone().into(), create).await
            }
            put => put,
        };
        match put {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. }) => return Err(ObjectError::Exists),
            Err(
                object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. },
            ) => {
                self.store.put(&at, bytes.clone().into()).await?;
            }
            Err(error) => return Err(error.into()),
        }
        self.warm(key, bytes);
        Ok(())
    }

    /// Deletes an object; one that is absent is deleted.
    pub(super) async fn delete(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        lock(&self.recent).cells.remove(key);
        match self.store.delete(&path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The folders of a stream's broadcasts, as their names are.
    pub(super) async fn broadcasts(&self, stream: &StreamName) -> Result<Vec<String>, ObjectError> {
        let prefix = Path::from(stream.as_str());
        let listed = self.store.list_with_delimiter(Some(&prefix)).await?;
        let names = listed.common_prefixes.iter();
        Ok(names
            .filter_map(|p| p.filename().map(str::to_owned))
            .collect())
    }

    /// Deletes everything of a broadcast that was written before `before_unix_ms`; gives how many objects.
    pub(super) async fn sweep(
        &self,
        stream: &StreamName,
        broadcast: &str,
        before_unix_ms: i64,
    ) -> Result<usize, ObjectError> {
        let prefix = Path::from(format!("{stream}/{broadcast}"));
        let listed: Vec<_> = self.store.list(Some(&prefix)).try_collect().await?;
        // All or nothing: an object written lately means that somebody is at it.
        if listed
            .iter()
            .any(|o| o.last_modified.timestamp_millis() >= before_unix_ms)
        {
            return Ok(0);
        }
        let count = listed.len();
        for object in listed {
            match self.store.delete(&object.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use object_store::memory::InMemory;
    use protocol::{
        names::{BroadcastId, Tag},
        object_key::ObjectKind,
    };

    use super::*;

    fn key(msn: u64) -> ObjectKey {
        ObjectKey {
            stream: "demo".parse().unwrap(),
            broadcast: BroadcastId::from_random([1; 16]),
            track: "v-720p30".parse().unwrap(),
            kind: ObjectKind::Segment { msn },
            tag: Tag::from_random([2; 12]),
        }
    }

    #[tokio::test]
    async fn an_object_is_never_written_twice_but_the_same_bytes_may_come_again() {
        let objects = Objects::new(Arc::new(InMemory::new()), 1 << 20);
        objects.put(&key(1), Bytes::from("first")).await.unwrap();
        objects.put(&key(1), Bytes::from("first")).await.unwrap();
        assert!(matches!(
            objects.put(&key(1), Bytes::from("other")).await,
            Err(ObjectError::Exists)
        ));
        assert_eq!(objects.get(&key(1)).await.unwrap(), "first");
        assert!(matches!(
            objects.get(&key(2)).await,
            Err(ObjectError::Absent)
        ));
    }

    #[tokio::test]
    async fn memory_stays_within_its_bound_and_the_store_still_answers() {
        let objects = Objects::new(Arc::new(InMemory::new()), 1_000);
        for msn in 0..50 {
            objects
                .put(&key(msn), Bytes::from(vec![msn as u8; 100]))
                .await
                .unwrap();
        }
        {
            let recent = lock(&objects.recent);
            assert!(recent.bytes <= 1_000 && recent.cells.len() <= 10);
        }
        assert_eq!(objects.get(&key(0)).await.unwrap(), vec![0; 100]);
        let _ = objects.get(&key(99)).await;
        assert!(
            lock(&objects.recent).cells.len() <= 10,
            "a failed fetch leaves nothing behind"
        );
    }

    #[tokio::test]
    async fn a_sweep_takes_old_broadcasts_whole_and_leaves_what_is_being_written() {
        let objects = Objects::new(Arc::new(InMemory::new()), 1_000);
        let stream = "demo".parse().unwrap();
        objects.put(&key(1), Bytes::from("x")).await.unwrap();
        let id = key(1).broadcast.to_string();
        assert_eq!(objects.broadcasts(&stream).await.unwrap(), vec![id.clone()]);
        assert_eq!(objects.sweep(&stream, &id, 0).await.unwrap(), 0);
        assert_eq!(objects.sweep(&stream, &id, i64::MAX).await.unwrap(), 1);
        assert!(objects.broadcasts(&stream).await.unwrap().is_empty());
    }
}
