//! What a request must have beside its path: one entry of the router.

use std::cmp::Reverse;
use std::collections::HashSet;

use http::Method;
use http::header::HeaderName;
use regex::bytes::Regex;

use crate::mistake::Workbench;
use crate::model::{Match, NameMatch, ValueMatch};
use crate::request::RequestView;

/// What a text must be.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    /// Anything: what was meant could not be understood, and the rule answers 500 anyway.
    Any,
    Exact(Box<[u8]>),
    Regex(Regex),
}

impl Text {
    pub(crate) fn new(bench: &mut Workbench, place: &str, value: &ValueMatch) -> Self {
        match value {
            ValueMatch::Exact(text) => Self::Exact(text.as_bytes().into()),
            ValueMatch::Regex(pattern) => bench.regex(place, pattern).map_or(Self::Any, Self::Regex),
            ValueMatch::Unknown => {
                bench.note(place, "this kind of match is not known here; use Exact or RegularExpression");
                Self::Any
            }
        }
    }

    pub(crate) fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => **text == *value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// One match of one rule, without its path.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Index of the rule.
    pub(crate) route: u32,
    pub(crate) method: Option<Method>,
    pub(crate) headers: Box<[(HeaderName, Text)]>,
    pub(crate) query: Box<[(Box<[u8]>, Text)]>,
    /// Place among all matches of the table, as they came.
    order: u32,
}

/// What comes first among entries of the same path (gateway-api.md 3.2, criteria 3 to 8); the smallest wins.
pub(crate) type Rank = (Reverse<bool>, Reverse<usize>, Reverse<usize>, u32);

impl Entry {
    pub(crate) fn new(bench: &mut Workbench, place: &str, m: &Match, route: u32, order: u32) -> Self {
        let method = (!m.method.is_empty())
            .then(|| {
                let read = Method::from_bytes(m.method.as_bytes());
                bench.keep(&format!("{place}.method"), read.map_err(|_| format!("{:?} is not a method", m.method)))
            })
            .flatten();
        Self { route, method, headers: headers(bench, place, &m.headers), query: query(bench, place, &m.query), order }
    }

    pub(crate) fn rank(&self) -> Rank {
        (Reverse(self.method.is_some()), Reverse(self.headers.len()), Reverse(self.query.len()), self.order)
    }

    pub(crate) fn holds(&self, request: &RequestView<'_>) -> bool {
        self.method.as_ref().is_none_or(|m| m == request.method)
            && self.headers.iter().all(|(n, t)| request.header(n).is_some_and(|v| t.holds(&v)))
            && self.query.iter().all(|(n, t)| request.parameter(n).is_some_and(|v| t.holds(&v)))
    }
}

fn headers(bench: &mut Workbench, place: &str, all: &[NameMatch]) -> Box<[(HeaderName, Text)]> {
    let mut taken = HashSet::new();
    let mut made = Vec::with_capacity(all.len());
    for (i, m) in all.iter().enumerate() {
        let place = format!("{place}.headers[{i}]");
        match HeaderName::from_bytes(m.name.as_bytes()) {
            // Only the first entry of a name counts (gateway-api.md 3.1).
            Ok(name) if !taken.insert(name.clone()) => {}
            Ok(name) => made.push((name, Text::new(bench, &place, &m.value))),
            Err(_) => {
                let pseudo = if m.name.starts_with(':') { "; match Host for the authority" } else { "" };
                bench.note(&place, format!("{:?} is not the name of a header{pseudo}", m.name));
            }
        }
    }
    made.into()
}

fn query(bench: &mut Workbench, place: &str, all: &[NameMatch]) -> Box<[(Box<[u8]>, Text)]> {
    let mut taken = HashSet::new();
    let mut made = Vec::with_capacity(all.len());
    for (i, m) in all.iter().enumerate().filter(|(_, m)| taken.insert(m.name.as_str())) {
        let place = format!("{place}.queryParams[{i}]");
        made.push((m.name.as_bytes().into(), Text::new(bench, &place, &m.value)));
    }
    made.into()
}
