//! Header modifiers.

use std::collections::HashSet;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};

use crate::filter::rewrite::set_authority;
use crate::mistake::Workbench;
use crate::model;

/// Changes of headers, checked. One change for each name, so that their order means nothing.
#[derive(Debug, Default)]
pub struct HeaderChange {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
    /// What `set` of Host means.
    authority: Option<Authority>,
}

/// Headers that say where a message ends or that belong to one connection (RFC 9110 7.6.1, RFC 9112 6): a filter that writes
/// them would let a client and a backend disagree on what a request is.
const FRAMING: [HeaderName; 6] = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// The same, of names that `http` has no constant for.
const FRAMING_NAMES: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];

impl HeaderChange {
    pub(crate) fn of_requests(bench: &mut Workbench, place: &str, change: &model::HeaderChange) -> Option<Self> {
        let mut made = Self::new(bench, place, change)?;
        if let Some(at) = made.set.iter().position(|(name, _)| *name == HOST) {
            let (_, value) = made.set.swap_remove(at);
            let read =
                value.to_str().ok().and_then(|v| v.parse::<Authority>().ok()).filter(|a| !a.as_str().contains('@'));
            if read.is_none() {
                bench.note(&format!("{place}.set"), format!("{value:?} is not a host with an optional port"));
            }
            made.authority = Some(read?);
        }
        let wrong = made.add.iter().map(|(n, _)| n).chain(&made.remove).any(|n| *n == HOST);
        if wrong {
            bench.note(place, "Host can only be set: a request has exactly one");
        }
        (!wrong).then_some(made)
    }

    pub(crate) fn of_answers(bench: &mut Workbench, place: &str, change: &model::HeaderChange) -> Option<Self> {
        Self::new(bench, place, change)
    }

    /// `None`, and notes of everything that is wrong.
    fn new(bench: &mut Workbench, place: &str, change: &model::HeaderChange) -> Option<Self> {
        let mut made = Self::default();
        let mut taken = HashSet::new();
        let mut sound = true;
        for (list, from, to) in [("set", &change.set, &mut made.set), ("add", &change.add, &mut made.add)] {
            for (i, header) in from.iter().enumerate() {
                let place = format!("{place}.{list}[{i}]");
                let name = name(bench, &place, &header.name, &mut taken);
                let value = value(bench, &place, &header.value);
                sound &= name.is_some() && value.is_some();
                to.extend(name.zip(value));
            }
        }
        for (i, text) in change.remove.iter().enumerate() {
            let name = name(bench, &format!("{place}.remove[{i}]"), text, &mut taken);
            sound &= name.is_some();
            made.remove.extend(name);
        }
        sound.then_some(made)
    }

    /// Changes the headers of a request; `set` of Host changes the authority.
    pub fn apply_to_request(&self, parts: &mut Parts) {
        if let Some(authority) = &self.authority {
            set_authority(parts, authority);
        }
        self.apply(&mut parts.headers);
    }

    /// Changes headers. Added values come behind those that are there, each in a line of its own.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            // `remove` of the map takes all values of the name.
            headers.remove(name);
        }
    }
}

/// A name that may be changed, and that has no other change (gateway-api.md 3.3: duplicates make the filter invalid).
fn name(bench: &mut Workbench, place: &str, text: &str, taken: &mut HashSet<HeaderName>) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        bench.note(place, format!("{text:?} is not the name of a header"));
        return None;
    };
    if FRAMING.contains(&name) || FRAMING_NAMES.contains(&name.as_str()) {
        bench.note(place, format!("{name} belongs to the connection and cannot be changed by a route"));
        return None;
    }
    if !taken.insert(name.clone()) {
        bench.note(place, format!("{name} has more than one change in this filter; leave one"));
        return None;
    }
    Some(name)
}

fn value(bench: &mut Workbench, place: &str, text: &str) -> Option<HeaderValue> {
    // Blanks around a value are not part of it (RFC 9110 5.5).
    let read = HeaderValue::from_bytes(text.trim_matches([' ', '\t']).as_bytes());
    bench.keep(place, read.map_err(|_| format!("{text:?} is not the value of a header: it holds a control character")))
}
