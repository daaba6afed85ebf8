//! The ClientHello of TLS (RFC 8446 4.1.2), as far as its server name (RFC 6066 3).

use crate::{ENOUGH, Guess};

/// A record's header: type, version, length.
const RECORD: usize = 5;

/// Most bytes of a record (RFC 8446 5.1).
const LONGEST: usize = 1 << 14;

/// What went wrong with a ClientHello.
enum Fault {
    /// It goes on in bytes that are not there.
    Short,
    /// It is none.
    Wrong,
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

pub(crate) fn look(first: &[u8]) -> Guess {
    match message(first).and_then(|message| server_name(&message)) {
        Ok(server_name) => Guess::Tls { server_name },
        Err(Fault::Short) => Guess::More,
        Err(Fault::Wrong) => Guess::Other,
    }
}

/// The body of the first handshake message, which records may cut anywhere.
fn message(mut first: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut all = Vec::new();
    loop {
        match first {
            // Any 3.x: the version of the record says nothing (RFC 8446 5.1).
            [22, 3, _, ..] | [22] | [22, 3] => {}
            [] => return Err(Fault::Short),
            _ => return Err(Fault::Wrong),
        }
        let Some(header) = first.get(..RECORD) else { return Err(Fault::Short) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > LONGEST {
            return Err(Fault::Wrong);
        }
        let body = &first[RECORD..];
        let there = &body[..length.min(body.len())];
        all.extend_from_slice(there);
        if let [kind, a, b, c, ..] = all[..] {
            if kind != 1 {
                return Err(Fault::Wrong);
            }
            let wanted = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if wanted > ENOUGH {
                return Err(Fault::Wrong);
            }
            if let Some(message) = all.get(4..4 + wanted) {
                return Ok(message.to_vec());
            }
        } else if all.first().is_some_and(|kind| *kind != 1) {
            return Err(Fault::Wrong);
        }
        if there.len() < length {
            return Err(Fault::Short);
        }
        first = &body[length..];
    }
}

fn server_name(message: &[u8]) -> Result<Option<String>, Fault> {
    let mut message = Bytes(message);
    // legacy_version and random.
    message.take(2 + 32)?;
    message.vector(1)?;
    message.vector(2)?;
    message.vector(1)?;
    if message.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Bytes(message.vector(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let body = extensions.vector(2)?;
        if kind == 0 {
            return name(body);
        }
    }
    Ok(None)
}

/// server_name: a list of one entry of type host_name.
fn name(body: &[u8]) -> Result<Option<String>, Fault> {
    let mut list = Bytes(Bytes(body).vector(2)?);
    while !list.0.is_empty() {
        let kind = list.number(1)?;
        let host = list.vector(2)?;
        if kind == 0 {
            let text = std::str::from_utf8(host).map_err(|_| Fault::Wrong)?;
            let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
            return if good { Ok(Some(text.to_ascii_lowercase())) } else { Err(Fault::Wrong) };
        }
    }
    Ok(None)
}

impl<'a> Bytes<'a> {
    // Within a message whose length is known a missing byte is a fault, not something to wait for.
    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Fault::Wrong)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, Fault> {
        Ok(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    /// A vector with a length of so many bytes in front.
    fn vector(&mut self, bytes: usize) -> Result<&'a [u8], Fault> {
        let length = self.number(bytes)?;
        self.take(length)
    }
}
