//! One packet in, one packet out, with file descriptors beside them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::{MAX_PACKET, Violation};

/// File descriptors that a packet has room for when it is read: one belongs there; a second one must be seen to be
/// refused, and what is beyond is cut off by the kernel and shows as MSG_CTRUNC.
const DESCRIPTORS: usize = 2;

/// A packet as it came.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Why nothing can be received any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("closed by the other end")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// One end of a connection. Tokio's stream type is used for its readiness alone: bytes go by `sendmsg` and `recvmsg`,
/// so that packets stay packets.
#[derive(Debug)]
pub(crate) struct Socket(UnixStream);

impl Socket {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Connects. A full backlog shows as `WouldBlock`.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let fd = unbound()?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self(UnixStream::from_std(StdStream::from(fd))?))
    }

    /// For tests that send what no rightful peer sends.
    #[cfg(test)]
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.0
    }

    /// Sends one packet. Dropping the future sends nothing.
    pub(crate) async fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let sent = self.0.async_io(Interest::WRITABLE, || self.try_send(bytes, descriptor)).await?;
        // The kernel takes a packet whole or not at all.
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Receives one packet. Dropping the future loses nothing.
    pub(crate) async fn receive(&self) -> Result<Packet, Failure> {
        self.0.async_io(Interest::READABLE, || self.try_receive()).await?
    }

    fn try_send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for the file descriptor"));
        }
        Ok(rustix::net::sendmsg(self.0.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
    }

    fn try_receive(&self) -> io::Result<Result<Packet, Failure>> {
        let mut bytes = vec![0; MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(
            self.0.as_fd(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let got = match got {
            Ok(got) => got,
            Err(rustix::io::Errno::CONNRESET) => return Ok(Err(Failure::Closed)),
            Err(e) => return Err(e.into()),
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Ok(Err(Violation::Truncated.into()));
        }
        // No message of this wire is empty, so zero bytes are the end.
        if got.bytes == 0 && descriptors.is_empty() {
            return Ok(Err(Failure::Closed));
        }
        bytes.truncate(got.bytes);
        Ok(Ok(Packet { bytes, descriptors }))
    }
}

/// A socket of the right kind, not blocking and not inherited by children.
pub(crate) fn unbound() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Whether somebody listens at the path. Leaves no connection behind.
pub(crate) fn is_alive(path: &Path) -> io::Result<bool> {
    use rustix::io::Errno;
    match rustix::net::connect(unbound()?, &SocketAddrUnix::new(path)?) {
        // AGAIN: its backlog is full. PROTOTYPE: it is a socket of another kind, but somebody's.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
