//! A response, and its bytes.
//!
//! The first picture of a large mesh has some 30 MB, and many nodes ask for it at once. So a response is only a list of what
//! the store holds anyway, and its bytes are made piece by piece as the transport takes them: message
//! `DeltaDiscoveryResponse` with the prefix of a gRPC message (fact sheet discovery.md 1; protobuf.dev, "Encoding"; gRPC over HTTP/2,
//! "Length-Prefixed-Message").

use std::sync::Arc;

use prost::bytes::{BufMut, Bytes, BytesMut};

use super::table::Stored;

/// Bytes of one piece, about: large enough that the transport is busy with it, small beside what else a stream costs.
const PIECE: usize = 64 << 10;

/// Digits of a version on the wire.
const VERSION: usize = 32;

/// Keys of the fields (number and wire type 2), each one byte.
mod key {
    pub(super) const ANY_TYPE_URL: u8 = 1 << 3 | 2;
    pub(super) const ANY_VALUE: u8 = 2 << 3 | 2;
    pub(super) const ALIAS: u8 = 4 << 3 | 2;
    pub(super) const BODY: u8 = 2 << 3 | 2;
    pub(super) const NAME: u8 = 3 << 3 | 2;
    pub(super) const NONCE: u8 = 5 << 3 | 2;
    pub(super) const REMOVED: u8 = 6 << 3 | 2;
    pub(super) const RESOURCE: u8 = 2 << 3 | 2;
    pub(super) const TYPE_URL: u8 = 4 << 3 | 2;
    pub(super) const VERSION: u8 = 1 << 3 | 2;
}

/// What is said to a client at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Response {
    pub(super) type_url: Arc<str>,
    pub(super) nonce: u64,
    pub(super) resources: Vec<Arc<Stored>>,
    pub(super) removed: Vec<Arc<str>>,
}

/// Sizes within a resource, in bytes.
struct Sizes {
    /// `google.protobuf.Any`.
    any: usize,
    /// The whole `Resource`.
    resource: usize,
}

impl Response {
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty()
    }

    /// Bytes of the bodies.
    pub(super) fn body_len(&self) -> usize {
        self.resources.iter().map(|stored| stored.entry.body.len()).sum()
    }

    /// The pieces of its bytes.
    pub(super) fn into_pieces(self) -> Pieces {
        let nonce = self.nonce.to_string();
        let resources = self.resources.iter().map(|stored| field_len(sizes(&self.type_url, stored).resource));
        let removed = self.removed.iter().map(|name| field_len(name.len()));
        let message: usize =
            resources.chain(removed).sum::<usize>() + field_len(self.type_url.len()) + field_len(nonce.len());
        let Self { type_url, resources, removed, .. } = self;
        Pieces {
            type_url,
            nonce,
            message,
            begun: false,
            resources: resources.into_iter(),
            removed: removed.into_iter(),
        }
    }
}

/// A response on its way. Lets go of each resource that is written.
#[derive(Debug)]
pub(super) struct Pieces {
    type_url: Arc<str>,
    nonce: String,
    /// Length of the message in bytes.
    message: usize,
    begun: bool,
    resources: std::vec::IntoIter<Arc<Stored>>,
    removed: std::vec::IntoIter<Arc<str>>,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut buffer = BytesMut::new();
        if !std::mem::replace(&mut self.begun, true) {
            // The last resource may go beyond a piece by its own length; small messages need no more than they are.
            buffer.reserve((self.message + 5).min(PIECE + 4096));
            buffer.put_u8(0);
            // Clients take 200 MiB at most, so what cannot be told here would not be read either.
            buffer.put_u32(u32::try_from(self.message).unwrap_or(u32::MAX));
            put_field(&mut buffer, key::TYPE_URL, self.type_url.as_bytes());
            put_field(&mut buffer, key::NONCE, self.nonce.as_bytes());
        }
        while buffer.len() < PIECE
            && let Some(name) = self.removed.next()
        {
            put_field(&mut buffer, key::REMOVED, name.as_bytes());
        }
        while buffer.len() < PIECE
            && let Some(stored) = self.resources.next()
        {
            put_resource(&mut buffer, &self.type_url, &stored);
        }
        (!buffer.is_empty()).then(|| buffer.freeze())
    }
}

fn sizes(type_url: &str, stored: &Stored) -> Sizes {
    let entry = &stored.entry;
    let any = field_len(type_url.len()) + field_len(entry.body.len());
    let aliases: usize = entry.aliases.iter().map(|alias| field_len(alias.len())).sum();
    Sizes { any, resource: field_len(VERSION) + field_len(any) + field_len(entry.name.len()) + aliases }
}

fn put_resource(to: &mut BytesMut, type_url: &str, stored: &Stored) {
    let (entry, sizes) = (&stored.entry, sizes(type_url, stored));
    to.reserve(field_len(sizes.resource));
    put_head(to, key::RESOURCE, sizes.resource);
    put_head(to, key::VERSION, VERSION);
    to.put_slice(&hex(stored.version));
    put_head(to, key::BODY, sizes.any);
    put_field(to, key::ANY_TYPE_URL, type_url.as_bytes());
    put_field(to, key::ANY_VALUE, &entry.body);
    put_field(to, key::NAME, entry.name.as_bytes());
    for alias in &entry.aliases {
        put_field(to, key::ALIAS, alias.as_bytes());
    }
}

fn put_field(to: &mut BytesMut, key: u8, bytes: &[u8]) {
    put_head(to, key, bytes.len());
    to.extend_from_slice(bytes);
}

/// Key and length of a field.
fn put_head(to: &mut BytesMut, key: u8, len: usize) {
    to.put_u8(key);
    let mut rest = len;
    while rest > 0x7f {
        to.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    to.put_u8(rest as u8);
}

/// Bytes of a field whose content has `len` bytes.
fn field_len(len: usize) -> usize {
    // Seven bits a byte; 0 takes one, too.
    let bits = usize::BITS - len.leading_zeros();
    1 + bits.div_ceil(7).max(1) as usize + len
}

/// As `{:032x}`.
fn hex(version: u128) -> [u8; VERSION] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|digit| DIGITS[(version >> (4 * (VERSION - 1 - digit)) & 0xf) as usize])
}

#[cfg(test)]
impl Response {
    /// As a client reads it.
    pub(super) fn read(self) -> proto::discovery::DeltaDiscoveryResponse {
        let bytes: Vec<u8> = self.into_pieces().flatten().collect();
        assert_eq!(bytes[0], 0, "not compressed");
        assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 5);
        prost::Message::decode(&bytes[5..]).unwrap()
    }
}
