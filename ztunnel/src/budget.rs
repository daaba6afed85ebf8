//! A budget per pod, shared by the workers, so that one pod cannot starve its neighbours (design rule: every pod has its
//! own share of the node proxy).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What one pod may use at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections and streams, both directions together.
    pub(crate) connections: usize,
    /// TLS handshakes that it is the server of.
    pub(crate) handshakes: usize,
    /// Look-ups that wait for a server's answer.
    pub(crate) lookups: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Half of the 65 536 file descriptors that a node proxy is usually given: one pod cannot take them all.
            connections: 32_768,
            // About a quarter of a second of public-key work on one core (0.25 ms an end): a flood of handshakes to
            // one pod delays that pod, not its neighbours.
            handshakes: 1_024,
            // Each holds a descriptor for 5 s at most: with a dead server, 200 queries a second and a 64th of the
            // descriptors; with one that answers in 20 ms, 50 000 a second.
            lookups: 1_024,
        }
    }
}

/// The counters of one pod.
pub(crate) struct Budget {
    limits: Limits,
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    lookups: AtomicUsize,
}

#[derive(Clone, Copy)]
enum Kind {
    Connection,
    Handshake,
    Lookup,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, connections: AtomicUsize::new(0), handshakes: AtomicUsize::new(0), lookups: AtomicUsize::new(0) }
    }

    /// A place for one more connection; `None` when the pod has used its share.
    pub(crate) fn connection(self: &Arc<Self>) -> Option<Share> {
        self.take(Kind::Connection)
    }

    /// A place for one more TLS handshake.
    pub(crate) fn handshake(self: &Arc<Self>) -> Option<Share> {
        self.take(Kind::Handshake)
    }

    /// A place for one more look-up.
    pub(crate) fn lookup(self: &Arc<Self>) -> Option<Share> {
        self.take(Kind::Lookup)
    }

    fn take(self: &Arc<Self>, kind: Kind) -> Option<Share> {
        let (counter, limit) = self.counter(kind);
        counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .is_ok()
            .then(|| Share { budget: self.clone(), kind })
    }

    fn counter(&self, kind: Kind) -> (&AtomicUsize, usize) {
        match kind {
            Kind::Connection => (&self.connections, self.limits.connections),
            Kind::Handshake => (&self.handshakes, self.limits.handshakes),
            Kind::Lookup => (&self.lookups, self.limits.lookups),
        }
    }
}

/// One place of a budget, given back on drop.
pub(crate) struct Share {
    budget: Arc<Budget>,
    kind: Kind,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.counter(self.kind).0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_comes_back_when_it_is_dropped() {
        let budget = Arc::new(Budget::new(Limits { connections: 2, handshakes: 1, lookups: 1 }));
        let first = budget.connection().unwrap();
        let _second = budget.connection().unwrap();
        assert!(budget.connection().is_none());
        let _handshake = budget.handshake().unwrap();
        assert!(budget.handshake().is_none());
        let _lookup = budget.lookup().unwrap();
        assert!(budget.lookup().is_none());
        drop(first);
        assert!(budget.connection().is_some());
    }
}
