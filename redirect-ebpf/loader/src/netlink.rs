//! Just enough netlink: build a request, send it, read the answers.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

// include/uapi/linux/netlink.h
pub(crate) const REQUEST: u16 = 0x01;
pub(crate) const ACK: u16 = 0x04;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// The kernel fills dumps in pieces of at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// Which kernel subsystem a socket talks to.
#[derive(Clone, Copy)]
pub(crate) enum Protocol {
    Route,
    SockDiag,
    Netfilter,
}

/// One request, built piece by piece.
pub(crate) struct Request(Vec<u8>);

impl Request {
    pub(crate) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        Self(bytes)
    }

    /// Attributes that go into another one.
    pub(crate) fn nested() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The fixed part, as the kernel's structure lays it out.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = 4 + value.len();
        self.0.extend_from_slice(&(length as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn attribute_u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// A netlink socket in the namespace of the thread that opened it.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open(protocol: Protocol) -> io::Result<Self> {
        let protocol = match protocol {
            // NETLINK_ROUTE is 0.
            Protocol::Route => None,
            Protocol::SockDiag => Some(netlink::SOCK_DIAG),
            Protocol::Netfilter => Some(netlink::NETFILTER),
        };
        let flags = SocketFlags::CLOEXEC;
        Ok(Self(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?))
    }

    /// Sends a request and waits for its acknowledgement.
    pub(crate) fn acknowledged(&self, request: Request) -> io::Result<()> {
        self.exchange(request, |_| Ok(()))
    }

    /// Sends a request and hands the payload of each answer to `each`, until the end of the dump or the acknowledgement.
    pub(crate) fn exchange(&self, request: Request, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let request = request.finish();
        if rustix::net::send(&self.0, &request, SendFlags::empty())? != request.len() {
            return Err(io::Error::other("netlink took half a request"));
        }
        let mut buffer = vec![0u8; BUFFER];
        loop {
            let (read, full) = rustix::net::recv(&self.0, buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            if full > read {
                return Err(io::Error::other("netlink answer longer than the kernel promises"));
            }
            let mut rest = &buffer[..read];
            while let Some((kind, payload, next)) = message(rest) {
                rest = next;
                match kind {
                    DONE => return Ok(()),
                    ERROR => return status(payload),
                    _ => each(payload)?,
                }
            }
        }
    }
}

/// Splits the first message off: its type, its payload, what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER..length)?;
    Some((kind, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// An acknowledgement is an error message with code 0.
fn status(payload: &[u8]) -> io::Result<()> {
    let code = payload.get(0..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("short netlink answer")),
    }
}

/// Walks the attributes of an answer.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_walked() {
        let bytes = Request::new(24, CREATE).bytes(&[1, 2, 3, 4]).attribute(7, b"abcde").attribute_u32(9, 1).finish();
        assert_eq!(bytes.len(), 16 + 4 + 12 + 8);
        let (kind, payload, rest) = message(&bytes).unwrap();
        assert_eq!((kind, rest.len()), (24, 0));
        let found: Vec<_> = attributes(&payload[4..]).collect();
        assert_eq!(found, [(7, b"abcde".as_slice()), (9, 1u32.to_ne_bytes().as_slice())]);
    }

    #[test]
    fn broken_lengths_end_the_walk() {
        assert!(message(&[3, 0, 0, 0, 0, 0]).is_none());
        assert_eq!(attributes(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn a_refusal_is_an_errno() {
        assert_eq!(status(&(-17i32).to_ne_bytes()).unwrap_err().raw_os_error(), Some(17));
        assert!(status(&0i32.to_ne_bytes()).is_ok());
    }
}
