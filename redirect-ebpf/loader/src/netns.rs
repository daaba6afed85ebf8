//! Working inside another network namespace.
#![allow(unsafe_code, reason = "one getsockopt that rustix does not know")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` on a thread of its own inside a network namespace, so that the caller's thread never changes its own.
pub(crate) fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?;
        worker.join().map_err(|_| io::Error::other("the thread in the namespace ended early"))?
    })
}

/// The cookie by which the kernel programs know a network namespace: unique since boot, never reused.
///
/// # Errors
/// When the namespace cannot be entered (CAP_SYS_ADMIN) or the kernel is older than 5.14 (`SO_NETNS_COOKIE`).
pub fn cookie_of(netns: BorrowedFd<'_>) -> io::Result<u64> {
    inside(netns, own_cookie)?
}

/// The cookie of the calling thread's namespace.
pub(crate) fn own_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // Why needed: no safe wrapper knows this option.
    // SAFETY: value and length describe the local variable.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed != 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
