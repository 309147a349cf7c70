//! What a thread that writes tells everybody else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::report::SinkCount;

/// What became of what such a thread was given.
#[derive(Debug, Default)]
pub(crate) struct State {
    delivered: AtomicU64,
    lost: AtomicU64,
    closed: AtomicBool,
    failed: AtomicBool,
    closing: Notify,
}

impl State {
    /// So many more were written.
    pub(crate) fn deliver(&self, count: u64) {
        self.delivered.fetch_add(count, Ordering::Relaxed);
    }

    /// So many more will not be.
    pub(crate) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// The reader went away: a normal end.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Kept for a task that only asks later.
        self.closing.notify_one();
    }

    /// Something could not be written. True: for the first time.
    pub(crate) fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Waits until the reader goes away; for one task at a time.
    pub(crate) async fn closed(&self) {
        while !self.is_closed() {
            self.closing.notified().await;
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// All of it, under a name for `portwatch.counters.sinks[]`.
    pub(crate) fn count(&self, name: &str) -> SinkCount {
        SinkCount {
            name: name.to_owned(),
            delivered: self.delivered.load(Ordering::Relaxed),
            lost: self.lost(),
        }
    }
}
