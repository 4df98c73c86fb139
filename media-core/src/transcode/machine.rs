//! What the transcoders of this process use of the machine, so that each knows of the others when it decides whether one more encode fits.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicU64, Ordering},
};

/// The cores are the process's, whoever starts a transcoder; so is what is known of them.
static SHARES: Mutex<Vec<Weak<AtomicU64>>> = Mutex::new(Vec::new());

/// One transcoder's part of the machine; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    /// Thousandths of a core.
    used: Arc<AtomicU64>,
}

impl Default for Share {
    fn default() -> Self {
        let used = Arc::new(AtomicU64::new(0));
        let mut shares = SHARES.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|share| share.strong_count() > 0);
        shares.push(Arc::downgrade(&used));
        Self { used }
    }
}

impl Share {
    /// Says what it uses, cores.
    pub(super) fn set(&self, cores: f64) {
        let thousandths = (cores.max(0.0) * 1_000.0) as u64;
        self.used.store(thousandths, Ordering::Relaxed);
    }

    /// What all others use together, cores.
    pub(super) fn others(&self) -> f64 {
        let shares = SHARES.lock().unwrap_or_else(PoisonError::into_inner);
        let others = shares
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|share| !Arc::ptr_eq(share, &self.used));
        let thousandths: u64 = others.map(|share| share.load(Ordering::Relaxed)).sum();
        thousandths as f64 / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_the_others_while_they_are_there() {
        let (one, two) = (Share::default(), Share::default());
        let before = one.others();
        two.set(1.5);
        assert!((one.others() - before - 1.5).abs() < 0.002);
        one.set(0.25);
        let both = Share::default().others();
        drop(two);
        assert!((both - Share::default().others() - 1.5).abs() < 0.002);
    }
}
