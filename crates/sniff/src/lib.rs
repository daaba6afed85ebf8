//! Which protocol a client speaks, by the first bytes that it sends. Pure: bytes in, a guess out; whoever calls decides how
//! long to wait for more of them, and passes every byte on.
//!
//! A guess is made only when it cannot change any more: what a prefix of some bytes is taken for, those bytes are taken for.

mod client_hello;
mod http1;

#[cfg(test)]
mod tests;

/// The client's connection preface of HTTP/2 (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Content type of a handshake record, the first byte of every TLS connection (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;

/// Bytes after which nothing more is waited for: a TLS record is at most 16 KiB (RFC 8446 5.1), and servers take request lines
/// of 8 KiB (RFC 9112 3 recommends at least 8000 bytes).
pub const ENOUGH: usize = 16 * 1024 + 5;

/// What a client speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guess {
    /// It may still be several: with more bytes it can be told.
    More,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// TLS.
    Tls {
        /// The server name that the client asks for, in small letters.
        server_name: Option<String>,
    },
    /// None of these.
    Other,
}

/// Tells by the first bytes of a connection, all of them so far.
pub fn guess(bytes: &[u8]) -> Guess {
    let guess = match bytes.first() {
        None => Guess::More,
        Some(&HANDSHAKE) => client_hello::look(bytes),
        Some(_) if bytes.starts_with(PREFACE) => Guess::Http2,
        Some(_) if PREFACE.starts_with(bytes) => Guess::More,
        Some(_) => http1::guess(bytes),
    };
    if guess == Guess::More && bytes.len() >= ENOUGH { Guess::Other } else { guess }
}
