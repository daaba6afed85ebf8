//! Queries as they come from applications, and what must come back for them (RFC 1035, 4.1; RFC 6891).

use hickory_proto::op::{Header, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Bytes of a header (RFC 1035, 4.1.1).
pub(crate) const HEADER: usize = 12;

/// QR, the bit of responses, in the third byte of the header.
pub(crate) const RESPONSE: u8 = 0x80;
/// The operation code, in the same byte.
const OPCODE: u8 = 0x78;
/// RD, recursion desired, in the same byte.
const RECURSION_DESIRED: u8 = 0x01;
/// CD, checking disabled, in the fourth byte.
const CHECKING_DISABLED: u8 = 0x10;
/// The response code, in the same byte.
const RESPONSE_CODE: u8 = 0x0f;
/// FORMERR (RFC 1035, 4.1.1).
const FORMAT_ERROR: u8 = 1;
/// SERVFAIL (RFC 1035, 4.1.1).
const SERVER_FAILURE: u8 = 2;

/// What a message from an application is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// An ordinary question.
    Query(Request),
    /// Well-formed, and nothing that the mesh answers: another operation than QUERY, or no question (RFC 7873, 5.4).
    /// To be forwarded.
    Other(Expected),
    /// Not well-formed. To be answered with these bytes, a format error (RFC 1035, 4.1.1; RFC 9619, 4).
    Malformed(Vec<u8>),
    /// To be dropped without an answer: too short to have one, or itself an answer, and to answer answers would make two
    /// servers talk for ever.
    Ignored(&'static str),
}

/// One question of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    expected: Expected,
    flags: [u8; 2],
    /// Lower case, without the dot at the end. A letter that needs escaping has its backslash.
    name: String,
    kind: RecordType,
    class: DNSClass,
    edns: Option<Edns>,
}

/// What the client says of itself (RFC 6891, 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) version: u8,
    pub(crate) payload: u16,
    pub(crate) dnssec_ok: bool,
}

/// What an answer must have to belong to a query: its id, its operation and its question (RFC 5452, 9.1). The addresses
/// are the socket's matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    id: [u8; 2],
    opcode: u8,
    /// The question as it stands in the query; empty when there is none.
    question: Box<[u8]>,
}

/// Reads a message. Never panics, whatever the bytes are.
pub fn read(bytes: &[u8]) -> Received {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Received::Ignored("shorter than a header") };
    if header[2] & RESPONSE != 0 {
        return Received::Ignored("a response");
    }
    let (id, opcode) = ([header[0], header[1]], header[2] & OPCODE);
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let none = || Expected { id, opcode, question: Box::default() };
    // Sections of other operations mean other things (RFC 2136), and are the server's to judge.
    if opcode != u8::from(OpCode::Query) << 3 || questions == 0 {
        return Received::Other(none());
    }
    // Looked at before anything else is read: the reader makes room for as many questions as are announced.
    if questions > 1 {
        return Received::Malformed(format_error(header));
    }
    match question(bytes, header) {
        Some(request) => Received::Query(request),
        None => Received::Malformed(format_error(header)),
    }
}

fn question(bytes: &[u8], header: &[u8; HEADER]) -> Option<Request> {
    let mut decoder = BinDecoder::new(bytes);
    let counts = Header::read(&mut decoder).ok().filter(|h| h.metadata.message_type == MessageType::Query)?.counts;
    let query = Query::read(&mut decoder).ok()?;
    let end = decoder.index();
    // A name that points elsewhere would have to point into the header, which is another one in the answer.
    let written: usize = query.name().iter().map(|label| 1 + label.len()).sum();
    // The root's label, type and class.
    if end != HEADER + written + 1 + 4 {
        return None;
    }
    let mut edns = None;
    for section in [counts.answers, counts.authorities, counts.additionals] {
        for _ in 0..section {
            let record = Record::read(&mut decoder).ok()?;
            if record.record_type() == RecordType::OPT && edns.replace(read_edns(&record)).is_some() {
                // RFC 6891, 6.1.1: more than one is a format error.
                return None;
            }
        }
    }
    let mut name = query.name().to_ascii().to_ascii_lowercase();
    if name.ends_with('.') {
        name.pop();
    }
    Some(Request {
        expected: Expected {
            id: [header[0], header[1]],
            opcode: header[2] & OPCODE,
            question: bytes.get(HEADER..end)?.into(),
        },
        flags: [header[2] & RECURSION_DESIRED, header[3] & CHECKING_DISABLED],
        name,
        kind: query.query_type(),
        class: query.query_class(),
        edns,
    })
}

/// RFC 6891, 6.1.3: the class is the payload size, the TTL holds version and flags.
fn read_edns(record: &Record) -> Edns {
    let [_, version, flags, _] = record.ttl.to_be_bytes();
    Edns { version, payload: record.dns_class.into(), dnssec_ok: flags & 0x80 != 0 }
}

/// A header that says no more than FORMERR: nothing behind the query's header can be trusted.
fn format_error(header: &[u8; HEADER]) -> Vec<u8> {
    let mut answer = vec![0; HEADER];
    answer[..2].copy_from_slice(&header[..2]);
    answer[2] = RESPONSE | header[2] & (OPCODE | RECURSION_DESIRED);
    answer[3] = FORMAT_ERROR;
    answer
}

impl Request {
    /// The name that is asked for, in lower case and without the dot at the end; for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type that is asked for, such as `A`; for logs.
    pub fn kind(&self) -> String {
        self.kind.to_string()
    }

    /// What an answer must have.
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Whether addresses are asked for: IPv4 (false) or IPv6 (true).
    pub(crate) fn wants_ipv6(&self) -> Option<bool> {
        match (self.class, self.kind) {
            (DNSClass::IN, RecordType::A) => Some(false),
            (DNSClass::IN, RecordType::AAAA) => Some(true),
            _ => None,
        }
    }

    pub(crate) fn edns(&self) -> Option<Edns> {
        self.edns
    }

    /// RD and CD of the query, in the bytes in which an answer has them.
    pub(crate) fn flags(&self) -> [u8; 2] {
        self.flags
    }
}

impl Expected {
    /// The answer of a server that cannot be reached: SERVFAIL, so that the client tries another at once and does not wait.
    pub fn server_failure(&self) -> Vec<u8> {
        let mut answer = vec![0; HEADER];
        answer[..2].copy_from_slice(&self.id);
        answer[2] = RESPONSE | self.opcode;
        answer[3] = SERVER_FAILURE;
        answer[5] = u8::from(!self.question.is_empty());
        answer.extend(&self.question);
        answer
    }

    pub(crate) fn id(&self) -> [u8; 2] {
        self.id
    }

    pub(crate) fn question(&self) -> &[u8] {
        &self.question
    }

    /// Whether a message is the answer. Case of the name does not count here: a client that plays with it (0x20) gets the
    /// answer byte by byte and compares by itself. An error may come without the question (RFC 1035, 4.1.1 lets a server
    /// that cannot read the query leave it out).
    pub fn fits(&self, answer: &[u8]) -> bool {
        let Some(header) = answer.first_chunk::<HEADER>() else { return false };
        if header[..2] != self.id || header[2] & RESPONSE == 0 || header[2] & OPCODE != self.opcode {
            return false;
        }
        let questions = u16::from_be_bytes([header[4], header[5]]);
        if questions == 0 {
            return self.question.is_empty() || header[3] & RESPONSE_CODE != 0;
        }
        let theirs = answer.get(HEADER..HEADER + self.question.len());
        // The name, then type and class. Bytes of lengths are below any letter (63 < 'A'), so one comparison does.
        let same = |theirs: &[u8]| match (self.question.split_last_chunk::<4>(), theirs.split_last_chunk::<4>()) {
            (Some((name, rest)), Some((their_name, their_rest))) => {
                name.eq_ignore_ascii_case(their_name) && rest == their_rest
            }
            _ => self.question.is_empty(),
        };
        theirs.is_some_and(same)
    }
}
