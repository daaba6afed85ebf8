//! Changes of headers that services ask for.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Framing and routing of the message, and what the mesh itself vouches for. A service that could set these would pass
/// judgement on one request and have another one sent (`:path` and the like are no header names at all here).
const UNTOUCHED: [HeaderName; 13] = [
    HOST,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-forwarded-for"),
];

/// Changes of one set of headers, in the order in which they apply.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes(Vec<Change>);

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue, Manner),
}

/// What happens to values that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// They stay before the new one.
    Append,
    /// They stay, and the new one is not needed.
    IfAbsent,
    /// They go, and without any there is nothing to do.
    IfPresent,
    /// They go.
    Overwrite,
}

impl Manner {
    /// As Envoy's `HeaderValueOption` says it: the older `append` where it is given; `append_action`, whose zero cannot be
    /// told from "not said", which in both services means overwrite.
    pub(super) fn of(append: Option<bool>, action: i32) -> Self {
        match (append, action) {
            (Some(true), _) => Self::Append,
            (Some(false), _) => Self::Overwrite,
            (None, 1) => Self::IfAbsent,
            (None, 3) => Self::IfPresent,
            (None, _) => Self::Overwrite,
        }
    }
}

impl Changes {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a header. One that may not be touched, or is no header, is left out: it must not cost the rest.
    pub(super) fn set(&mut self, name: &str, value: &[u8], manner: Manner) {
        match (touchable(name), HeaderValue::from_bytes(value)) {
            (Some(name), Ok(value)) => self.0.push(Change::Set(name, value, manner)),
            _ => tracing::debug!(name, "an external service asked for a header that cannot be set"),
        }
    }

    /// Removes a header.
    pub(super) fn remove(&mut self, name: &str) {
        match touchable(name) {
            Some(name) => self.0.push(Change::Remove(name)),
            None => tracing::debug!(name, "an external service asked for a header to be removed that cannot be"),
        }
    }

    /// What comes after these.
    pub(crate) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Makes the changes.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for change in &self.0 {
            match change {
                Change::Remove(name) => {
                    headers.remove(name);
                }
                Change::Set(name, value, manner) => {
                    let present = headers.contains_key(name);
                    match (manner, present) {
                        (Manner::Append, _) => {
                            headers.append(name, value.clone());
                        }
                        (Manner::IfAbsent, true) | (Manner::IfPresent, false) => {}
                        (Manner::IfAbsent | Manner::IfPresent | Manner::Overwrite, _) => {
                            headers.insert(name, value.clone());
                        }
                    }
                }
            }
        }
    }

    /// The headers that these make of none.
    pub(super) fn alone(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.apply(&mut headers);
        headers
    }
}

fn touchable(name: &str) -> Option<HeaderName> {
    // Upper case is no header name of HTTP/2, but services send it.
    let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).ok()?;
    let mesh = name.as_str().starts_with("x-forwarded-client-cert");
    (!UNTOUCHED.contains(&name) && !mesh).then_some(name)
}

/// Whether a header belongs to one message of one connection and is never copied from one to another.
pub(super) fn is_of_message(name: &HeaderName) -> bool {
    UNTOUCHED.contains(name) || matches!(name.as_str(), "content-type" | "content-encoding" | "date" | "server")
}
