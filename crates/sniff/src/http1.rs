//! The request line of HTTP/1 (RFC 9112 3): `method SP target SP HTTP/1.x CRLF`.

use super::Guess;

/// No method that is in use is longer (IANA's registry: `VERSION-CONTROL` has 15 letters); the rest is room.
const METHOD: usize = 32;

pub(crate) fn guess(bytes: &[u8]) -> Guess {
    // A server ignores an empty line before the request line (RFC 9112 2.2).
    let bytes = match bytes {
        [b'\r', b'\n', rest @ ..] => rest,
        [b'\r'] => return Guess::More,
        _ => bytes,
    };
    let line = bytes.iter().position(|b| *b == b'\n');
    match line {
        Some(end) => {
            if is_request_line(bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end])) {
                Guess::Http1
            } else {
                Guess::Other
            }
        }
        None if may_become(bytes) => Guess::More,
        None => Guess::Other,
    }
}

fn is_request_line(line: &[u8]) -> bool {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    is_method(method)
        && !target.is_empty()
        && target.iter().all(u8::is_ascii_graphic)
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'])
}

/// Whether a line without its end can still be a request line.
fn may_become(line: &[u8]) -> bool {
    let mut parts = line.splitn(3, |b| *b == b' ');
    let method = parts.next().unwrap_or_default();
    let graphic = |part: &[u8]| part.iter().all(u8::is_ascii_graphic);
    match (parts.next(), parts.next()) {
        // Nothing yet is a beginning as well.
        (None, _) => method.len() <= METHOD && method.iter().all(|b| is_token(*b)),
        (Some(target), None) => is_method(method) && graphic(target),
        (Some(target), Some(version)) => {
            let version = version.strip_suffix(b"\r").unwrap_or(version);
            is_method(method) && !target.is_empty() && graphic(target) && is_version_begun(version)
        }
    }
}

fn is_version_begun(version: &[u8]) -> bool {
    const BEFORE: &[u8] = b"HTTP/1.";
    match version.strip_prefix(BEFORE) {
        Some(minor) => matches!(minor, [] | [b'0'..=b'9']),
        None => BEFORE.starts_with(version),
    }
}

fn is_method(method: &[u8]) -> bool {
    !method.is_empty() && method.len() <= METHOD && method.iter().all(|b| is_token(*b))
}

/// `tchar` of RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
