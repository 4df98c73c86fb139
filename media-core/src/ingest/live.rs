//! Who publishes which stream: at most one publisher a stream at a time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use protocol::names::StreamName;
use tokio_util::sync::CancellationToken;

use super::config::SecondPublisher;

/// A publisher that has sent nothing for so long gives way to the next one under either policy: it is most likely the same encoder, back
/// from a broken network before the old connection was missed.
pub const STALE: Duration = Duration::from_secs(3);

/// The streams that are being published to.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Mutex<HashMap<StreamName, Arc<Entry>>>>);

#[derive(Debug)]
struct Entry {
    cut: CancellationToken,
    taken_over: AtomicBool,
    gone: CancellationToken,
    last_media_ms: AtomicU64,
}

/// A publisher's claim to its stream; dropping it frees the stream.
#[derive(Debug)]
pub struct Claim {
    live: Live,
    stream: StreamName,
    entry: Arc<Entry>,
}

impl Live {
    /// Claims a stream. Where the policy lets this publisher take over, the one before is cut and its end awaited, so give the call a
    /// deadline. `None` when the stream is taken. `now` is of the same clock as in [`Claim::media_at`].
    pub async fn claim(
        &self,
        stream: &StreamName,
        policy: SecondPublisher,
        now: Duration,
    ) -> Option<Claim> {
        loop {
            let first = match self.try_claim(stream, now) {
                Ok(claim) => return Some(claim),
                Err(first) => first,
            };
            let last_media = Duration::from_millis(first.last_media_ms.load(Ordering::Relaxed));
            let stale = now.saturating_sub(last_media) >= STALE;
            if policy == SecondPublisher::Refuse && !stale {
                return None;
            }
            first.taken_over.store(true, Ordering::Release);
            first.cut.cancel();
            first.gone.cancelled().await;
        }
    }

    /// The streams that are being published to, in order.
    pub fn streams(&self) -> Vec<StreamName> {
        let mut streams: Vec<_> = self.entries().keys().cloned().collect();
        streams.sort();
        streams
    }

    fn try_claim(&self, stream: &StreamName, now: Duration) -> Result<Claim, Arc<Entry>> {
        let mut entries = self.entries();
        if let Some(first) = entries.get(stream) {
            return Err(first.clone());
        }
        let entry = Arc::new(Entry {
            cut: CancellationToken::new(),
            taken_over: AtomicBool::new(false),
            gone: CancellationToken::new(),
            last_media_ms: AtomicU64::new(millis(now)),
        });
        entries.insert(stream.clone(), entry.clone());
        Ok(Claim {
            live: self.clone(),
            stream: stream.clone(),
            entry,
        })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<StreamName, Arc<Entry>>> {
        // The map is whole between any two statements that hold the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// The stream.
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// Cancelled when another publisher takes over; cancel it to end this one.
    pub fn cut(&self) -> &CancellationToken {
        &self.entry.cut
    }

    /// Whether another publisher is taking over.
    pub fn is_taken_over(&self) -> bool {
        self.entry.taken_over.load(Ordering::Acquire)
    }

    /// Audio or video came.
    pub fn media_at(&self, now: Duration) {
        self.entry
            .last_media_ms
            .store(millis(now), Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.live.entries().remove(&self.stream);
        self.entry.gone.cancel();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_second_publisher_is_refused_until_the_first_one_is_gone_or_stale() {
        let (live, demo) = (Live::default(), "demo".parse().unwrap());
        let first = live.claim(&demo, SecondPublisher::Refuse, S).await.unwrap();
        first.media_at(10 * S);
        assert!(
            live.claim(&demo, SecondPublisher::Refuse, 12 * S)
                .await
                .is_none()
        );
        assert_eq!(live.streams(), std::slice::from_ref(&demo));
        let other = "other".parse().unwrap();
        assert!(
            live.claim(&other, SecondPublisher::Refuse, 12 * S)
                .await
                .is_some()
        );

        let cut = first.cut().clone();
        let end_of_first = async move {
            cut.cancelled().await;
            assert!(first.is_taken_over());
            drop(first);
        };
        let (second, ()) = tokio::join!(
            live.claim(&demo, SecondPublisher::Refuse, 13 * S),
            end_of_first
        );
        drop(second.unwrap());
        assert!(
            live.claim(&demo, SecondPublisher::Refuse, 14 * S)
                .await
                .is_some()
        );
        assert_eq!(live.streams(), []);
    }

    #[tokio::test]
    async fn a_take_over_waits_for_the_end_of_the_first() {
        let (live, demo) = (Live::default(), "demo".parse().unwrap());
        let first = live
            .claim(&demo, SecondPublisher::TakeOver, S)
            .await
            .unwrap();
        let second = live.claim(&demo, SecondPublisher::TakeOver, S);
        tokio::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        assert!(first.cut().is_cancelled());
        drop(first);
        assert!(second.await.is_some());
    }
}
