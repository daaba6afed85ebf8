//! The dial of a key: one task, whose end is told to all that wait.

use std::rc::{Rc, Weak};

use tokio::time::timeout;

use super::state::TunnelId;
use super::types::{Bond, Dial, DialTimings, Evict, PoolKey, PoolStats};
use super::{Inner, types};
use crate::client::{self, Client, ClientDriver};
use crate::pulse::{ConnectionError, DOUBT};

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failure<E> {
    /// Evicted meanwhile.
    Closed,
    /// The dialler says so.
    Dial(Rc<E>),
    /// HTTP/2 did not begin.
    Handshake(ConnectionError),
    /// Too slow.
    TimedOut,
}

/// Derived, it would ask for `E: Clone`.
impl<E> Clone for Failure<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Closed => Self::Closed,
            Self::Dial(e) => Self::Dial(e.clone()),
            Self::Handshake(e) => Self::Handshake(e.clone()),
            Self::TimedOut => Self::TimedOut,
        }
    }
}

type Made<IO> = (Client, ClientDriver<IO>, Rc<dyn Bond>, DialTimings);

impl<D: Dial> Inner<D> {
    pub(super) fn start_dial(self: &Rc<Self>, key: Rc<PoolKey>) {
        let dialer = self.dialer.clone();
        let limits = self.limits.clone();
        // The pool may go away meanwhile; a dial does not keep it.
        let mut report = Report { inner: Rc::downgrade(self), key: key.clone(), told: false };
        tokio::task::spawn_local(async move {
            let attempt = async {
                let types::Dialled { io, bond, timings } =
                    dialer.dial(&key).await.map_err(|e| Failure::Dial(Rc::new(e)))?;
                let (client, driver) = client::connect(io, &limits).await.map_err(Failure::Handshake)?;
                Ok((client, driver, bond, timings))
            };
            let made = timeout(limits.dial_timeout, attempt).await.unwrap_or(Err(Failure::TimedOut));
            report.tell(made);
        });
    }

    fn dialled(self: &Rc<Self>, key: &Rc<PoolKey>, made: Result<Made<D::Io>, Failure<D::Error>>) {
        self.counters.dialled(made.is_ok());
        let (result, driver) = match made {
            Ok((client, driver, bond, timings)) => (Ok((client, bond, timings)), Some(driver)),
            Err(failure) => (Err(failure), None),
        };
        let next = self.state.borrow_mut().dialled(key, result, &self.limits);
        if let Some(driver) = driver {
            self.spawn(driver, key.clone(), next.id);
        }
        if let Some(key) = next.again {
            self.start_dial(key);
        }
    }

    fn spawn(self: &Rc<Self>, driver: ClientDriver<D::Io>, key: Rc<PoolKey>, id: TunnelId) {
        let inner = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, tunnel = %key.tunnel, destination = %key.destination, "tunnel connection ended");
            }
            if let Some(inner) = inner.upgrade() {
                inner.state.borrow_mut().ended(&key, id);
            }
        });
    }

    pub(super) fn evict(self: &Rc<Self>, which: impl Fn(&PoolKey) -> bool, how: Evict) {
        let (tunnels, dials) = self.state.borrow_mut().evict(which, how);
        for tunnel in tunnels {
            tunnel.evict(how);
        }
        // A pod that was killed does not answer a SYN either: who waits for it is not to wait for the dial's whole time.
        for (key, round) in dials {
            let inner = Rc::downgrade(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(DOUBT).await;
                if let Some(inner) = inner.upgrade() {
                    inner.state.borrow_mut().give_up(&key, round);
                }
            });
        }
    }

    pub(super) fn stats(&self) -> PoolStats {
        let mut stats = self.counters.stats();
        self.state.borrow().stats(&mut stats);
        stats
    }
}

/// Tells the pool how the dial ended, even when its task is dropped or panics.
struct Report<D: Dial> {
    inner: Weak<Inner<D>>,
    key: Rc<PoolKey>,
    told: bool,
}

impl<D: Dial> Report<D> {
    fn tell(&mut self, made: Result<Made<D::Io>, Failure<D::Error>>) {
        self.told = true;
        if let Some(inner) = self.inner.upgrade() {
            inner.dialled(&self.key, made);
        }
    }
}

impl<D: Dial> Drop for Report<D> {
    fn drop(&mut self) {
        if !self.told
            && let Some(inner) = self.inner.upgrade()
        {
            let _none = inner.state.borrow_mut().dialled(&self.key, Err(Failure::Closed), &inner.limits);
        }
    }
}
