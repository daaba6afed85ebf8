//! Connections that are older than the enrolment of their pod: they go on in clear, counted, and can be ended.

use std::os::fd::BorrowedFd;

use redirect_abi::{OldSocket, maps};

use crate::enroll::pod_namespace;
use crate::netns::{cookie_of, inside};
use crate::sockets::{self, Connection};
use crate::store::{Raw, gone, map_error};
use crate::{EnrollError, Redirector};

impl Redirector {
    /// Counts the connections of a pod that still go on in clear because they are older than its enrolment, and forgets those that
    /// have ended.
    ///
    /// # Errors
    /// See [`EnrollError`].
    pub fn old_connections(&mut self, netns: BorrowedFd<'_>) -> Result<usize, EnrollError> {
        Ok(self.live_old(netns)?.len())
    }

    /// Ends the connections of a pod that are older than its enrolment (the deadline for talking in clear is over). Those that the
    /// kernel cannot close are held by the guard from now on. Returns how many there were.
    ///
    /// # Errors
    /// See [`EnrollError`].
    pub fn close_old_connections(&mut self, netns: BorrowedFd<'_>) -> Result<usize, EnrollError> {
        let live = self.live_old(netns)?;
        for connection in &live {
            gone(maps::OLD_SOCKETS, self.store.old.remove(&connection.cookie))?;
        }
        let closed = inside(netns, || live.iter().try_for_each(sockets::destroy)).map_err(pod_namespace)?;
        if let Err(error) = closed {
            tracing::warn!(%error, "connections older than the enrolment are held by the guard, not closed");
        }
        Ok(live.len())
    }

    /// Files the connections that exist now, so that the guard lets them go on.
    pub(crate) fn file_old(&mut self, netns: BorrowedFd<'_>, cookie: u64) -> Result<usize, EnrollError> {
        let mut filed = 0;
        for connection in list(netns)?.iter().filter(|c| !c.captured() && !c.stays_inside()) {
            let value = Raw(OldSocket { cookie });
            self.store.old.insert(connection.cookie, value, 0).map_err(|e| map_error(maps::OLD_SOCKETS, e))?;
            filed += 1;
        }
        Ok(filed)
    }

    fn live_old(&mut self, netns: BorrowedFd<'_>) -> Result<Vec<Connection>, EnrollError> {
        let cookie = cookie_of(netns).map_err(pod_namespace)?;
        let filed = self.store.old_sockets(cookie)?;
        let mut live = list(netns)?;
        live.retain(|connection| filed.contains(&connection.cookie));
        for ended in filed.iter().filter(|socket| !live.iter().any(|c| c.cookie == **socket)) {
            gone(maps::OLD_SOCKETS, self.store.old.remove(ended))?;
        }
        Ok(live)
    }
}

fn list(netns: BorrowedFd<'_>) -> Result<Vec<Connection>, EnrollError> {
    inside(netns, sockets::connections).map_err(pod_namespace)?.map_err(|source| EnrollError::Sockets { source })
}
