//! Paths that change, for redirects and rewrites.

use http::uri::PathAndQuery;

use crate::mistake::Workbench;
use crate::model;

/// How a path changes, checked; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// This path in place of the whole.
    Full(String),
    /// These elements in place of the matched prefix; without a slash at the end, so empty for `/`.
    Prefix(String),
}

impl PathChange {
    pub(crate) fn new(bench: &mut Workbench, place: &str, change: &model::PathChange) -> Option<Self> {
        match change {
            model::PathChange::Full(text) => Some(Self::Full(path(bench, place, text)?)),
            model::PathChange::Prefix(text) if text.is_empty() => Some(Self::Prefix(String::new())),
            model::PathChange::Prefix(text) => {
                let text = path(bench, place, text)?;
                Some(Self::Prefix(text.strip_suffix('/').map_or(text.clone(), str::to_owned)))
            }
            model::PathChange::Unknown => {
                bench.note(place, "this kind of change is not known here; use ReplaceFullPath or ReplacePrefixMatch");
                None
            }
        }
    }

    /// The changed path of a request whose match names the first `prefix` bytes of it, and how much of it is the prefix
    /// now (gateway-api.md 3.3, "Path modifiers"). `*` (OPTIONS of a whole server) has no elements and stays.
    pub fn apply(&self, path: &str, prefix: usize) -> (String, usize) {
        match self {
            _ if !path.starts_with('/') => (path.to_owned(), 0),
            Self::Full(new) => (new.clone(), new.len()),
            Self::Prefix(new) => {
                let rest = path.get(prefix..).unwrap_or_default();
                match (new.as_str(), rest) {
                    ("", "") => ("/".to_owned(), 0),
                    _ => (format!("{new}{rest}"), new.len()),
                }
            }
        }
    }
}

/// A path as it stands in a request. A missing slash at the beginning is added.
fn path(bench: &mut Workbench, place: &str, text: &str) -> Option<String> {
    let slash = if text.starts_with('/') { "" } else { "/" };
    let full = format!("{slash}{text}");
    let sound = !full.contains(['?', '#']) && full.is_ascii() && full.parse::<PathAndQuery>().is_ok();
    if !sound {
        bench.note(place, format!("{text:?} is not a path; encode other characters as %XX, and leave the query out"));
    }
    sound.then_some(full)
}
