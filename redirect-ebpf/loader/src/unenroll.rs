//! Letting a pod go: first no new captures, then the rest when nothing captured is left.
//!
//! ```text
//! enrolled ──unenroll──► leaving ──no captured connection left, or Force──► gone
//!     ▲                     │
//!     └───────enroll────────┘
//! ```

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use redirect_abi::{PodState, maps, programs};

use crate::netns::{cookie_of, inside};
use crate::store::keys;
use crate::{EnrollError, RedirectError, Redirector, pins, routing, sockets, tc};

/// What to do with connections that are still captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// Only stop capturing: nothing is taken away, however idle the pod looks. A connect that was captured in this very moment
    /// may not be counted yet; with the rules gone its packets would go where nobody knows them.
    Begin,
    /// Wait for them: call again until [`Left::Gone`].
    WhenIdle,
    /// Close them now.
    Force,
}

/// What is left of a leaving pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// So many captured sockets, as a rule two for each connection; rules, routes and guard stay.
    Captured(usize),
    /// Nothing.
    Gone,
}

impl Redirector {
    /// Lets a pod go. New connections are direct from the moment of the call; connections that were captured before go on through the
    /// proxy, those too whose first packet has not arrived there yet. Rules, routes, look-up and guard stay for them. A pod that is
    /// not enrolled is gone.
    ///
    /// # Errors
    /// See [`EnrollError`]. Whatever was not done is done by the next call.
    pub fn unenroll(&mut self, netns: BorrowedFd<'_>, leave: Leave) -> Result<Left, EnrollError> {
        let failed = |source: io::Error| EnrollError::Namespace { whose: "the pod", source };
        let cookie = cookie_of(netns).map_err(failed)?;
        let Some(mut pod) = self.store.pod(cookie)? else { return Ok(Left::Gone) };
        if pod.state() == PodState::Enrolled {
            pod.leaving = 1;
            self.store.set_pod(cookie, pod)?;
        }
        let addresses = self.addresses(cookie)?;
        inside(netns, || routing::questions(&addresses, false)).map_err(failed)??;
        let dns = self.pins.dns(cookie);
        inside(netns, || tc::detach(programs::DNS, &dns)).map_err(failed)??;
        let captured =
            inside(netns, || captured(leave)).map_err(failed)?.map_err(|source| EnrollError::Sockets { source })?;
        if captured != 0 || leave == Leave::Begin {
            return Ok(Left::Captured(captured));
        }
        inside(netns, || routing::down(&addresses)).map_err(failed)??;
        self.forget(cookie)?;
        tracing::info!(cookie, "pod un-enrolled");
        Ok(Left::Gone)
    }

    /// Takes away what is kept for a pod whose namespace no longer exists (its rules and programs went with it).
    ///
    /// # Errors
    /// Maps and pins.
    pub fn forget(&mut self, cookie: u64) -> Result<(), RedirectError> {
        let guard = self.pins.guard(cookie);
        let failed = |source| RedirectError::Attach { name: programs::GUARD, source };
        self.at_host(|| tc::detach(programs::GUARD, &guard)).map_err(failed)??;
        pins::remove_links(&self.pins.pod(cookie))?;
        self.store.forget_pod(cookie)
    }

    pub(crate) fn addresses(&self, cookie: u64) -> Result<Vec<IpAddr>, RedirectError> {
        let own = keys(maps::OWN, self.store.own.keys(), |key| key.0.cookie == cookie)?;
        Ok(own.into_iter().map(|key| IpAddr::from(key.0.ip)).collect())
    }
}

/// Counts the captured connections, closing them first if so told.
fn captured(leave: Leave) -> io::Result<usize> {
    let list = || Ok::<_, io::Error>(sockets::connections()?.into_iter().filter(|c| c.captured()).collect::<Vec<_>>());
    let found = list()?;
    if leave == Leave::Force && !found.is_empty() {
        for connection in &found {
            sockets::destroy(connection)?;
        }
        return Ok(list()?.len());
    }
    Ok(found.len())
}
