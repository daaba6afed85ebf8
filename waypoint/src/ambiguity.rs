//! Requests of HTTP/1 that say in two ways where their body ends (RFC 9112 6.1 and 11.2, request smuggling).
//!
//! The HTTP library reads such a request by its `Transfer-Encoding` and drops the `Content-Length` before we see it. What we
//! send on is then sound, but a proxy in front of us that reads it the other way could be made to put one client's bytes into
//! another's request. So the bytes of a head are kept as they come until the library hands the request over, and looked at
//! when it has a `Transfer-Encoding`, which few have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::TRANSFER_ENCODING;
use http::request::Parts;

/// Bytes that are kept at most: more than any head that the library takes, and the frame that its end came in.
const MOST: usize = 1 << 20;

/// The bytes of the head that is being read. Shared by the stream and the service of one connection, which are on one
/// thread; the library asks of streams that they could be sent to another.
pub(crate) struct Heads {
    /// A head is due: what is read next belongs to it.
    due: AtomicBool,
    raw: Mutex<Vec<Bytes>>,
}

impl Heads {
    /// `first`: what was read of the first head already.
    pub(crate) fn new(first: &Bytes) -> Self {
        Self { due: AtomicBool::new(true), raw: Mutex::new(vec![first.clone()]) }
    }

    /// Something was read.
    pub(crate) fn read(&self, bytes: &Bytes) {
        if !self.due.load(Ordering::Relaxed) {
            return;
        }
        let mut raw = self.lock();
        raw.push(bytes.clone());
        if raw.iter().map(Bytes::len).sum::<usize>() > MOST {
            // No head: the library ends such a connection by itself.
            self.due.store(false, Ordering::Relaxed);
            raw.clear();
        }
    }

    /// The library has handed a request over. Says whether it is one that can be read in two ways. Where its head did not
    /// come by itself (behind another request, before that was answered), what cannot be known counts as such.
    pub(crate) fn is_ambiguous(&self, head: &Parts) -> bool {
        self.due.store(false, Ordering::Relaxed);
        let raw = std::mem::take(&mut *self.lock());
        head.version < http::Version::HTTP_2 && head.headers.contains_key(TRANSFER_ENCODING) && names_length(&raw)
    }

    /// The request is answered: the next one may come.
    pub(crate) fn answered(&self) {
        self.due.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Bytes>> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a head has a `Content-Length`.
fn names_length(raw: &[Bytes]) -> bool {
    let all = raw.concat();
    // An empty line before a request does not end its head (RFC 9112 2.2).
    let mut lines = all.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    if lines.by_ref().find(|line| !line.is_empty()).is_none() {
        return true;
    }
    let mut fields = lines.take_while(|line| !line.is_empty());
    fields.any(|line| {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"content-length")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ambiguous(raw: &[&'static str]) -> bool {
        let heads = Heads::new(&Bytes::from_static(raw[0].as_bytes()));
        raw[1..].iter().for_each(|more| heads.read(&Bytes::from_static(more.as_bytes())));
        let request = http::Request::post("/").header(TRANSFER_ENCODING, "chunked");
        heads.is_ambiguous(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn both_ways_in_one_head_are_found_and_bodies_are_not_looked_at() {
        assert!(!ambiguous(&["POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n"]));
        assert!(ambiguous(&["POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"]));
        assert!(ambiguous(&["\r\nPOST / HTTP/1.1\nTransfer-Encoding: chunked\nCON", "TENT-length : 5\n\n"]));
        assert!(!ambiguous(&["POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", "12\r\ncontent-length: 5\r\n"]));
        assert!(!ambiguous(&["GET /?content-length: HTTP/1.1\r\nx: content-length: 1\r\n\r\n"]));
        assert!(ambiguous(&[""]), "a head that nobody saw");
    }

    #[test]
    fn only_heads_are_kept_and_only_until_they_are_handed_over() {
        let heads = Heads::new(&Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n"));
        let (get, ()) = http::Request::get("/").body(()).unwrap().into_parts();
        assert!(!heads.is_ambiguous(&get));
        heads.read(&Bytes::from_static(b"body"));
        assert!(heads.lock().is_empty());
        heads.answered();
        heads.read(&Bytes::from_static(b"POST / HTTP/1.1\r\n"));
        assert_eq!(heads.lock().len(), 1);
    }
}
