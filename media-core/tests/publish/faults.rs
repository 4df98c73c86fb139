//! An object store in memory whose faults the test chooses.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};

#[derive(Default)]
pub struct Faults {
    pub down: AtomicBool,
    /// Per cent of the puts that fail: half of them before anything was written, half after.
    pub errors: AtomicU64,
    /// Milliseconds that a put takes.
    pub delay_ms: AtomicU64,
    random: AtomicU64,
}

pub struct FaultyStore {
    inner: InMemory,
    pub faults: Faults,
    /// Every key that was written, and how often.
    writes: Mutex<BTreeMap<String, u32>>,
    pub in_flight: AtomicU64,
    pub most_in_flight: AtomicU64,
}

impl FaultyStore {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            faults: Faults::default(),
            writes: Mutex::default(),
            in_flight: AtomicU64::default(),
            most_in_flight: AtomicU64::default(),
        })
    }

    pub fn read(&self, key: &str) -> Option<Bytes> {
        use futures::FutureExt;
        use object_store::ObjectStoreExt;
        // The memory store never waits.
        let got = self.inner.get(&Path::from(key)).now_or_never()?.ok()?;
        got.bytes().now_or_never()?.ok()
    }

    pub fn keys(&self) -> Vec<String> {
        use futures::{FutureExt, TryStreamExt};
        let all: Vec<ObjectMeta> = self
            .inner
            .list(None)
            .try_collect()
            .now_or_never()
            .unwrap()
            .unwrap();
        all.into_iter()
            .map(|meta| meta.location.to_string())
            .collect()
    }

    pub fn twice_written(&self) -> Vec<String> {
        let writes = self.writes.lock().unwrap();
        let twice = writes.iter().filter(|(_, count)| **count > 1);
        twice.map(|(key, _)| key.clone()).collect()
    }

    /// A fixed sequence: the tests are the same each time.
    fn dice(&self) -> u64 {
        let n = self.faults.random.fetch_add(1, Relaxed);
        let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % 100
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

fn fault(text: &str) -> Error {
    Error::Generic {
        store: "faulty",
        source: text.into(),
    }
}

struct Flight<'a>(&'a FaultyStore);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let now = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Relaxed);
        let _flight = Flight(self);
        let delay = self.faults.delay_ms.load(Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if self.faults.down.load(Relaxed) {
            return Err(fault("the store is down"));
        }
        let bad = self.dice() < self.faults.errors.load(Relaxed);
        if bad && self.dice() < 50 {
            return Err(fault("failed before the write"));
        }
        *self
            .writes
            .lock()
            .unwrap()
            .entry(location.to_string())
            .or_default() += 1;
        let result = self.inner.put_opts(location, payload, opts).await;
        match bad {
            true => Err(fault("failed after the write")),
            false => result,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
