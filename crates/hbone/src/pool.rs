//! A worker's tunnels: few connections to each destination, many streams on each.
//!
//! ```text
//! open ──▶ a connection with room? ──yes──▶ stream (and, when it is busy, another connection is opened meanwhile)
//!              └──no──▶ wait in line for the one dial of this key ──▶ stream, or the dial's own error
//! ```
//! The dial is a task of its own: whoever asked for it may go away. No lock and no borrow is held while anything is
//! awaited.

mod dial;
mod state;
mod types;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use tokio::time::timeout;

use crate::client::StreamError;
use crate::headers::Head;
use crate::limits::ClientLimits;
use crate::pulse::DOUBT;
use dial::Failure;
use state::{Counters, Lease, State, TunnelId};

pub use types::{Bond, Dial, DialTimings, Dialled, Evict, OpenError, Opened, Phase, PoolKey, PoolStats, Timings};

/// The pool. Clones share it; when the last one is dropped, its connections end with their streams.
///
/// To be used inside one `LocalSet`.
pub struct Pool<D: Dial> {
    inner: Rc<Inner<D>>,
}

struct Inner<D: Dial> {
    dialer: Rc<D>,
    limits: ClientLimits,
    state: RefCell<State<D::Error>>,
    counters: Counters,
}

impl<D: Dial> Clone for Pool<D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<D: Dial> Pool<D> {
    /// A pool that gets its transports from `dialer`.
    pub fn new(dialer: D, limits: ClientLimits) -> Self {
        let state = RefCell::new(State::default());
        Self { inner: Rc::new(Inner { dialer: Rc::new(dialer), limits, state, counters: Counters::default() }) }
    }

    /// Opens a stream, on a connection that is there or on a new one.
    ///
    /// A request that the peer certainly did not process (GOAWAY, REFUSED_STREAM), or left lying when it said good-bye, is tried
    /// once more on another connection; when the destination is said to be gone meanwhile, only for as long as one that is there
    /// needs. A dropped future cancels the stream, but not a dial that others may wait for.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self, key: &PoolKey, head: &Head) -> Result<Opened, OpenError<D::Error>> {
        let began = Instant::now();
        let lease = self.lease(key, None).await?;
        match self.open_on(&lease, head, began).await {
            Err(e) if e.is_unprocessed() => {
                tracing::debug!(error = %e, tunnel = %key.tunnel, "stream is tried on another connection");
                self.inner.counters.retried();
                let lease = self.lease_again(key, &lease).await?;
                self.open_on(&lease, head, began).await.map_err(OpenError::from)
            }
            done => done.map_err(OpenError::from),
        }
    }

    /// Closes the connections to a workload (it was deleted).
    pub fn evict(&self, destination: &str, how: Evict) {
        self.inner.evict(|key| &*key.destination == destination, how);
    }

    /// Closes the connections of an identity (its certificate was revoked, or its last pod has left).
    pub fn evict_source(&self, source: &mesh::Identity, how: Evict) {
        self.inner.evict(|key| key.source == *source, how);
    }

    /// Closes all connections.
    pub fn close_all(&self, how: Evict) {
        self.inner.evict(|_| true, how);
    }

    /// Counts, for metrics.
    pub fn stats(&self) -> PoolStats {
        self.inner.stats()
    }

    async fn lease(&self, key: &PoolKey, avoid: Option<TunnelId>) -> Result<Lease, OpenError<D::Error>> {
        let asked = self.inner.state.borrow_mut().ask(key, avoid, &self.inner.limits);
        if let Some(key) = asked.dial {
            self.inner.start_dial(key);
        }
        let waiting = match asked.lease {
            Ok(lease) => return Ok(lease),
            Err(waiting) => waiting,
        };
        // A dial that vanishes (its task was dropped with the runtime) has not reached the peer.
        waiting.await.unwrap_or(Err(Failure::Closed)).map_err(OpenError::from)
    }

    /// Another connection than the one that a request was refused on.
    async fn lease_again(&self, key: &PoolKey, refused: &Lease) -> Result<Lease, OpenError<D::Error>> {
        let lease = self.lease(key, Some(refused.id));
        if !refused.is_evicted() {
            return lease.await;
        }
        // A pod that ends tells its peers so by GOAWAY, and then does not answer a SYN: as in `evict`, the dial is not
        // waited for to its end.
        timeout(DOUBT, lease).await.unwrap_or(Err(OpenError::TimedOut(Phase::Dial)))
    }

    async fn open_on(&self, lease: &Lease, head: &Head, began: Instant) -> Result<Opened, StreamError> {
        let leased = Instant::now();
        let (stream, headers) = lease.client.open_seated(head, lease.seat.clone()).await?;
        self.inner.counters.opened(lease.reused);
        let timings = Timings {
            waited: leased - began,
            dial: (!lease.reused).then_some(lease.timings),
            response: leased.elapsed(),
        };
        Ok(Opened { stream, headers, reused: lease.reused, bond: lease.bond.clone(), timings })
    }
}

#[cfg(test)]
mod ending_tests;
#[cfg(test)]
mod scale_tests;
#[cfg(test)]
mod tests;
