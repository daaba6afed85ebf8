//! Host and path that the backend sees.

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Uri};

use crate::filter::path::PathChange;
use crate::filter::redirect::wanted;
use crate::mistake::Workbench;
use crate::model;

/// Host and path that the backend sees, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    authority: Option<Authority>,
    path: Option<PathChange>,
}

/// The changed request line would not be one. Cannot happen with a path and a replacement that were checked; told apart so
/// that a request never goes on unchanged.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAPath;

impl Rewrite {
    pub(crate) fn new(bench: &mut Workbench, place: &str, rewrite: &model::Rewrite) -> Option<Self> {
        let authority = rewrite.hostname.as_ref().map(|h| hostname(bench, &format!("{place}.hostname"), h));
        let path = rewrite.path.as_ref().map(|p| PathChange::new(bench, &format!("{place}.path"), p));
        // Both are read, so that both are reported.
        Some(Self { authority: wanted(authority)?, path: wanted(path)? })
    }

    pub(crate) fn path(&self) -> Option<&PathChange> {
        self.path.as_ref()
    }

    /// Changes the request. `prefix` is how much of its path the match names, and is changed with it.
    ///
    /// # Errors
    /// When the new path is none.
    pub fn apply(&self, parts: &mut Parts, prefix: &mut usize) -> Result<(), NotAPath> {
        if let Some(authority) = &self.authority {
            set_authority(parts, authority);
        }
        let Some(change) = &self.path else { return Ok(()) };
        let (path, length) = change.apply(parts.uri.path(), *prefix);
        set_path(parts, &path)?;
        *prefix = length;
        Ok(())
    }
}

/// A host name without a port.
pub(crate) fn hostname(bench: &mut Workbench, place: &str, text: &str) -> Option<Authority> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let read = plain.then(|| text.parse().ok()).flatten();
    if read.is_none() {
        bench.note(place, format!("{text:?} is not a host name; give it without scheme and port"));
    }
    read
}

/// Puts another authority in place: in the request line where it has one (HTTP/2), in `Host` where there is one or where
/// nothing else names it (HTTP/1).
pub fn set_authority(parts: &mut Parts, authority: &Authority) {
    let named = parts.uri.authority().is_some();
    let mut pieces = parts.uri.clone().into_parts();
    pieces.authority = Some(authority.clone());
    // What had an authority is still whole with another one.
    if named && let Ok(uri) = Uri::from_parts(pieces) {
        parts.uri = uri;
    }
    if !named || parts.headers.contains_key(HOST) {
        // An authority is made of characters that a header may hold.
        if let Ok(value) = HeaderValue::from_str(authority.as_str()) {
            parts.headers.insert(HOST, value);
        }
    }
}

/// Puts another path in place of the request's and keeps its query.
fn set_path(parts: &mut Parts, path: &str) -> Result<(), NotAPath> {
    let text = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut pieces = parts.uri.clone().into_parts();
    pieces.path_and_query = Some(PathAndQuery::try_from(text).map_err(|_| NotAPath)?);
    parts.uri = Uri::from_parts(pieces).map_err(|_| NotAPath)?;
    Ok(())
}
