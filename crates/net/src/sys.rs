//! The few system calls that no safe wrapper among our dependencies covers.
#![expect(unsafe_code, reason = "raw getsockopt, setsockopt and ioctl calls; each block says why it is sound")]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `SO_NETNS_COOKIE` (asm-generic/socket.h, Linux 5.14); the libc crate does not name it on all targets.
pub(crate) const SO_NETNS_COOKIE: c_int = 71;
/// `NS_GET_NSTYPE`, `_IO(0xb7, 0x3)` (linux/nsfs.h, Linux 4.11).
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Reads a socket option into `value` and says how many bytes the kernel wrote.
///
/// # Errors
/// Those of getsockopt(2).
pub(crate) fn getsockopt(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Why needed: TCP_INFO and SO_NETNS_COOKIE have no wrapper in std, socket2 or rustix.
    // SAFETY: `value` is a live, exclusive buffer of `len` bytes and the kernel writes at most `len` bytes into it; any
    // bytes are valid in a `[u8]`. `len` is a live integer of the type that the call wants. The descriptor is open for the
    // length of the borrow.
    let rc = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((len as usize).min(value.len()))
}

/// Sets a socket option that takes an integer.
///
/// # Errors
/// Those of setsockopt(2).
pub(crate) fn setsockopt_int(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // Why needed: IP_BIND_ADDRESS_NO_PORT has no wrapper in std, socket2 or rustix.
    // SAFETY: the pointer leads to a live `c_int` and `len` is its size; the kernel only reads it. The descriptor is open
    // for the length of the borrow.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The kind of namespace that a descriptor stands for, as its CLONE_NEW* flag.
///
/// # Errors
/// ENOTTY when the descriptor is not a namespace at all.
pub(crate) fn namespace_kind(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    // Why needed: NS_GET_NSTYPE has no wrapper in rustix.
    // SAFETY: the request takes no argument and touches no memory of ours; an open descriptor of any other kind answers
    // ENOTTY (0xb7 is the ioctl type of nsfs alone).
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind) }
}

/// Attaches an open `/dev/net/tun` to the interface that `request`, a `struct ifreq`, describes.
///
/// # Errors
/// Those of the request (EPERM, EBUSY when the name is taken).
pub(crate) fn tun_set_iff(
    file: &std::fs::File,
    request: &mut [u8; libc::IFNAMSIZ + crate::tap::PADDING],
) -> io::Result<()> {
    // Why needed: TUNSETIFF has no wrapper among our dependencies.
    // SAFETY: the request reads and writes one `struct ifreq`, 40 bytes on 64 bit, which is what `request` has; any bytes
    // are valid in it. The descriptor is open for the length of the borrow.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
