//! Tells when something in a folder changes (inotify(7)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A watched folder. Needs a tokio runtime with I/O.
#[derive(Debug)]
pub(super) struct Folder(AsyncFd<OwnedFd>);

impl Folder {
    /// Watches from now on: make it first and read the folder afterwards, or a change in between is missed.
    pub(super) fn watch(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, path, flags)?;
        #[expect(deprecated, reason = "its successor is `unsafe`; an OwnedFd keeps the promise that it asks for")]
        Ok(Self(AsyncFd::with_interest(fd, Interest::READABLE)?))
    }

    /// Resolves when something has changed. May be dropped and called again without loss.
    ///
    /// # Errors
    /// When the folder is gone: watch it anew.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        let mut gone = false;
        // Room for several events with a name of 255 bytes each (inotify(7)).
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(ready.get_inner(), &mut space);
        loop {
            match reader.next() {
                Ok(event) => gone |= event.events().intersects(ReadFlags::IGNORED | ReadFlags::MOVE_SELF),
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        ready.clear_ready();
        if gone { Err(io::Error::new(io::ErrorKind::NotFound, "the folder is gone")) } else { Ok(()) }
    }
}
