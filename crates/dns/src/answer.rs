//! Answers on the wire (RFC 1035, 4; RFC 6891).
//!
//! Written by hand rather than by a message builder, because the question must come back byte by byte (a client may have
//! put its own mixture of capitals into it to tell forgeries, "0x20"), and because sizes must be known before a record is
//! written: what does not fit is left out whole.

use std::net::IpAddr;
use std::sync::Arc;

use mesh::Service;

use crate::request::{HEADER, RESPONSE, Request};
use crate::{UDP_LEAST, UDP_MOST};

/// Seconds that a client may keep an answer: Istio's 30 (hbone.md 12), which is also CoreDNS' default in a cluster.
pub const TTL: u32 = 30;

const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_AVAILABLE: u8 = 0x80;

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_OPT: u16 = 41;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// BADVERS is 16: its upper 8 bits stand in the OPT record (RFC 6891, 6.1.3), the lower four are 0.
const BAD_VERSION: u8 = 1;
/// An OPT record without options.
const OPT_SIZE: usize = 11;
/// What a record has besides its name and its data: type, class, TTL, length.
const RECORD: usize = 10;
/// The question's name starts right behind the header; a pointer to it (RFC 1035, 4.1.4).
const QUESTION: u16 = 0xc000 | HEADER as u16;

/// What the mesh says of a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The name that was meant when it is not the one that was asked for: the answer has a CNAME to it.
    pub canonical: Option<String>,
    /// The service.
    pub service: Arc<Service>,
    /// Its addresses of the family that was asked for, shuffled. None: the name exists and has no such address, which is
    /// an answer without records, never NXDOMAIN.
    pub addresses: Vec<IpAddr>,
}

impl Answer {
    /// The answer for UDP: at most as long as the client can take. What does not fit is left out, and the client told to
    /// ask again over TCP.
    pub fn encode_udp(&self, request: &Request) -> Vec<u8> {
        let limit = request.edns().map_or(UDP_LEAST, |e| usize::from(e.payload).clamp(UDP_LEAST, UDP_MOST));
        self.encode(request, limit)
    }

    /// The answer for TCP, without the two bytes of its length: 64 KiB at most, some 4 000 addresses. A service with more
    /// shows as many, and each client others.
    pub fn encode_tcp(&self, request: &Request) -> Vec<u8> {
        let mut answer = self.encode(request, usize::from(u16::MAX));
        // There is no better transport to send the client to.
        if let Some(flags) = answer.get_mut(2) {
            *flags &= !TRUNCATED;
        }
        answer
    }

    fn encode(&self, request: &Request, limit: usize) -> Vec<u8> {
        let edns = request.edns();
        let understood = edns.is_none_or(|e| e.version == 0);
        let mut out = Writer::new(request, limit.saturating_sub(edns.map_or(0, |_| OPT_SIZE)));
        let mut whole = true;
        if understood {
            whole = self.records(&mut out);
        }
        let (mut message, answers) = (out.message, out.answers);
        if let Some(edns) = edns {
            let version_error = if understood { 0 } else { BAD_VERSION };
            let flags = if edns.dnssec_ok { 0x80 } else { 0 };
            // The root's name, the size that we take ourselves, then the four parts of the TTL, no options.
            message.push(0);
            message.extend(TYPE_OPT.to_be_bytes());
            message.extend((UDP_MOST as u16).to_be_bytes());
            message.extend([version_error, 0, flags, 0, 0, 0]);
            message[11] = 1;
        }
        let [desired, disabled] = request.flags();
        message[2] = RESPONSE | AUTHORITATIVE | desired | if whole { 0 } else { TRUNCATED };
        message[3] = RECURSION_AVAILABLE | disabled;
        message[6..8].copy_from_slice(&answers.to_be_bytes());
        message
    }

    /// Writes what fits; says whether that was all.
    fn records(&self, out: &mut Writer) -> bool {
        let mut owner = QUESTION;
        if let Some(target) = self.canonical.as_deref().and_then(wire_name) {
            // The target stands behind the record's name (2 bytes) and its fixed part.
            owner = 0xc000 | (out.message.len() + 2 + RECORD) as u16;
            if !out.record(QUESTION, TYPE_CNAME, &target) {
                return false;
            }
        }
        self.addresses.iter().all(|address| match address {
            IpAddr::V4(v4) => out.record(owner, TYPE_A, &v4.octets()),
            IpAddr::V6(v6) => out.record(owner, TYPE_AAAA, &v6.octets()),
        })
    }
}

/// A message under construction: a header with its counts still open, and the question.
struct Writer {
    message: Vec<u8>,
    limit: usize,
    answers: u16,
}

impl Writer {
    fn new(request: &Request, limit: usize) -> Self {
        let mut message = vec![0; HEADER];
        message[..2].copy_from_slice(&request.expected().id());
        message[5] = 1;
        message.extend(request.expected().question());
        Self { message, limit, answers: 0 }
    }

    /// Adds a record if there is room.
    fn record(&mut self, owner: u16, kind: u16, data: &[u8]) -> bool {
        if self.message.len() + 2 + RECORD + data.len() > self.limit {
            return false;
        }
        self.message.extend(owner.to_be_bytes());
        self.message.extend(kind.to_be_bytes());
        self.message.extend(CLASS_IN.to_be_bytes());
        self.message.extend(TTL.to_be_bytes());
        self.message.extend((data.len() as u16).to_be_bytes());
        self.message.extend(data);
        self.answers += 1;
        true
    }
}

/// A name as a chain of labels (RFC 1035, 3.1); `None` when it cannot be one, which leaves the answer without a CNAME.
fn wire_name(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        out.push(length);
        out.extend(label.as_bytes());
    }
    out.push(0);
    (out.len() <= 255).then_some(out)
}
