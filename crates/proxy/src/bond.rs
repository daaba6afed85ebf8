//! What a tunnel rests on: the certificates of both of its ends.
//!
//! One that expires keeps no tunnel from carrying what it carries, but new streams go over another. One that is revoked
//! ends the tunnel at once with all that is in it: the transport itself fails, wherever the tunnel is kept by then.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use hbone::Bond;
use identity::{Crl, Peer};
use mesh::Identity;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// The certificates of a tunnel, and the lists that may revoke them.
pub struct Certificates {
    /// Our own.
    pub ours: Peer,
    /// The other end's.
    pub theirs: Peer,
    /// The lists in force.
    pub revocations: watch::Receiver<Arc<Crl>>,
}

impl Certificates {
    /// Whether one of them is revoked now.
    pub fn revoked(&self) -> bool {
        revokes(&self.revocations.borrow(), [&self.ours, &self.theirs])
    }

    /// Resolves when one of them is revoked.
    pub fn until_revoked(&self) -> impl Future<Output = ()> + use<> {
        let (ours, theirs) = (self.ours.clone(), self.theirs.clone());
        until_revoked(self.revocations.clone(), vec![ours, theirs])
    }
}

/// Resolves when one of these is revoked.
pub async fn until_revoked(mut lists: watch::Receiver<Arc<Crl>>, certificates: Vec<Peer>) {
    if lists.wait_for(|crl| revokes(crl, &certificates)).await.is_err() {
        // The manager is gone: nobody will revoke anything any more.
        std::future::pending::<()>().await;
    }
}

fn revokes<'a>(crl: &Crl, certificates: impl IntoIterator<Item = &'a Peer>) -> bool {
    certificates.into_iter().any(|certificate| crl.revokes(certificate))
}

impl Bond for Certificates {
    fn peer(&self) -> &Identity {
        &self.theirs.identity
    }

    fn holds(&self) -> bool {
        SystemTime::now() < self.ours.not_after.min(self.theirs.not_after) && !self.revoked()
    }

    fn is_broken(&self) -> bool {
        self.revoked()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serials = (self.ours.serial_hex(), self.theirs.serial_hex());
        f.debug_struct("Certificates").field("ours", &serials.0).field("theirs", &serials.1).finish_non_exhaustive()
    }
}

/// A transport that fails as soon as something has happened, also while it is idle.
pub struct Revocable<IO> {
    io: IO,
    /// None where nothing can happen, or after it has.
    end: Option<Pin<Box<dyn Future<Output = ()>>>>,
    ended: bool,
}

impl<IO> Revocable<IO> {
    /// Fails when `end` resolves; without one it is the transport itself.
    pub fn new(io: IO, end: Option<Pin<Box<dyn Future<Output = ()>>>>) -> Self {
        Self { io, end, ended: false }
    }

    /// Asked when the transport is read, which its owner does all the time: what happens later wakes him.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            (self.end, self.ended) = (None, true);
        }
        if self.ended {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "a certificate of the tunnel is revoked"));
        }
        Ok(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Revocable<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(cx)?;
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Revocable<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "bond_tests.rs"]
mod tests;
