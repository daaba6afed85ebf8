//! Entries that want a regular expression of the path. They are tried one after the other.

use std::cmp::Reverse;

use regex::bytes::Regex;

use crate::condition::{Entry, Rank, Text};
use crate::mistake::Workbench;
use crate::model::{GrpcMatch, ValueMatch};
use crate::request::RequestView;

/// All of a table, best first.
#[derive(Debug, Default)]
pub(crate) struct Patterns(Vec<Pattern>);

/// One entry.
#[derive(Debug)]
pub(crate) struct Pattern {
    test: Test,
    /// Characters of the expression for the path or the service, and of that for the method.
    length: (usize, usize),
    entry: Entry,
}

#[derive(Debug)]
enum Test {
    /// Service and method of gRPC; `None` = any.
    Call {
        service: Option<Text>,
        method: Option<Text>,
    },
    Path(Regex),
    /// An expression that cannot be used: everything below the elements with which it begins. Its rule answers 500, and
    /// nothing that was meant for it goes to another one.
    Under(Box<str>),
}

impl Patterns {
    pub(crate) fn push(&mut self, pattern: Pattern) {
        self.0.push(pattern);
    }

    pub(crate) fn finish(&mut self) {
        self.0.sort_by_key(Pattern::rank);
        self.0.shrink_to_fit();
    }

    pub(crate) fn find(&self, request: &RequestView<'_>) -> Option<&Entry> {
        let holds = |p: &&Pattern| p.test.holds(request) && p.entry.holds(request);
        self.0.iter().find(holds).map(|p| &p.entry)
    }
}

impl Pattern {
    /// For a path.
    pub(crate) fn path(bench: &mut Workbench, place: &str, text: &str, entry: Entry) -> Self {
        let test = match bench.regex(place, text) {
            Some(regex) => Test::Path(regex),
            None => Test::Under(literal_elements(text).into()),
        };
        Self { test, length: (text.chars().count(), 0), entry }
    }

    /// For a path of which nothing is known.
    pub(crate) fn unknown(entry: Entry) -> Self {
        Self { test: Test::Under("".into()), length: (0, 0), entry }
    }

    /// For a gRPC call, of which service or method is not empty.
    pub(crate) fn call(bench: &mut Workbench, place: &str, call: &GrpcMatch, entry: Entry) -> Self {
        let mut part = |name: &str, text: &str| {
            let value = ValueMatch::Regex(text.to_owned());
            (!text.is_empty()).then(|| Text::new(bench, &format!("{place}.{name}"), &value))
        };
        let test = Test::Call { service: part("service", &call.service), method: part("method", &call.method) };
        Self { test, length: (call.service.chars().count(), call.method.chars().count()), entry }
    }

    fn rank(&self) -> (Reverse<(usize, usize)>, Rank) {
        (Reverse(self.length), self.entry.rank())
    }
}

impl Test {
    fn holds(&self, request: &RequestView<'_>) -> bool {
        match self {
            Self::Call { service, method } => request.grpc_call().is_some_and(|(s, m)| {
                service.as_ref().is_none_or(|t| t.holds(s.as_bytes()))
                    && method.as_ref().is_none_or(|t| t.holds(m.as_bytes()))
            }),
            Self::Path(regex) => regex.is_match(request.path.as_bytes()),
            Self::Under(prefix) => {
                let rest = request.path.strip_prefix(&**prefix);
                rest.is_some_and(|r| prefix.is_empty() || r.is_empty() || r.starts_with('/'))
            }
        }
    }
}

/// The elements with which every path begins that an expression could mean, without a slash at the end; empty when it
/// cannot be told.
fn literal_elements(pattern: &str) -> &str {
    if pattern.contains('|') {
        return "";
    }
    let literal = pattern.find(|c: char| ".^$*+?()[]{}\\".contains(c)).map_or(pattern, |end| &pattern[..end]);
    literal.rfind('/').map_or("", |slash| &literal[..slash])
}

#[cfg(test)]
mod tests {
    use super::literal_elements;

    #[test]
    fn literal_elements_of_expressions() {
        let cases = [
            ("/api/v[0-9+", "/api"),
            ("/api/(", "/api"),
            ("/api/v1(", "/api"),
            ("/api/?(", "/api"),
            ("/(", ""),
            (".*(", ""),
            ("(?i)/api/(", ""),
            ("/a/b/c|/d/(", ""),
            ("/a/b\\", "/a"),
        ];
        for (pattern, want) in cases {
            assert_eq!(literal_elements(pattern), want, "{pattern}");
        }
    }
}
