//! The few system calls that no safe wrapper among our dependencies covers.
#![expect(unsafe_code, reason = "raw getsockopt, setsockopt, recvmsg and ioctl calls; each block says why it is sound")]

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

/// One datagram, as recvmsg(2) tells of it.
pub(crate) struct Received {
    /// Bytes written to the buffer.
    pub(crate) len: usize,
    /// The datagram was longer than the buffer.
    pub(crate) truncated: bool,
    /// `struct sockaddr` of the sender, with its length.
    pub(crate) from: ([u8; SOCKADDR], usize),
    /// `struct sockaddr` of the destination that the packet has, if the kernel told it.
    pub(crate) to: Option<[u8; SOCKADDR]>,
}

/// Bytes of the longer of `sockaddr_in` and `sockaddr_in6` (28).
pub(crate) const SOCKADDR: usize = size_of::<libc::sockaddr_in6>();

/// Room for one control message with an address: header 16 bytes, address 28, in units that the kernel aligns to 8.
const CONTROL: usize = 64;

/// Receives one datagram with its original destination (IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR), without waiting.
///
/// # Errors
/// Those of recvmsg(2); EAGAIN when there is none.
pub(crate) fn recv_with_destination(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    #[repr(C, align(8))]
    struct Control([u8; CONTROL]);
    let mut control = Control([0; CONTROL]);
    let mut from = [0; SOCKADDR];
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // Why needed: neither std, socket2 nor rustix read IP_ORIGDSTADDR control messages.
    // SAFETY: all zeros is a valid `msghdr` (null pointers, lengths 0).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = from.as_mut_ptr().cast();
    message.msg_namelen = SOCKADDR as libc::socklen_t;
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    // SAFETY: name, vector and control lead to live, exclusive buffers of the lengths given beside them, all of plain
    // bytes, and outlive the call. The descriptor is open for the length of the borrow.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let Ok(len) = usize::try_from(len) else { return Err(io::Error::last_os_error()) };
    let filled = (message.msg_controllen as usize).min(CONTROL);
    Ok(Received {
        len,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        from: (from, (message.msg_namelen as usize).min(SOCKADDR)),
        to: original_destination(&control.0[..filled]),
    })
}

/// Reads the control messages by hand (cmsg(3)): length of 8 bytes, level and type of 4 each, then data, each message
/// aligned to 8. A slice cannot be left, as a pointer can.
fn original_destination(mut control: &[u8]) -> Option<[u8; SOCKADDR]> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    while control.len() >= HEAD {
        let len = usize::from_ne_bytes(*control.first_chunk()?);
        let at = size_of::<usize>();
        let level = c_int::from_ne_bytes(*control.get(at..)?.first_chunk()?);
        let kind = c_int::from_ne_bytes(*control.get(at + size_of::<c_int>()..)?.first_chunk()?);
        let data = control.get(HEAD..len)?;
        if matches!((level, kind), (libc::SOL_IP, libc::IP_ORIGDSTADDR) | (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR)) {
            let mut address = [0; SOCKADDR];
            let count = data.len().min(SOCKADDR);
            address[..count].copy_from_slice(&data[..count]);
            return Some(address);
        }
        control = control.get(len.next_multiple_of(align_of::<usize>())..)?;
    }
    None
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
