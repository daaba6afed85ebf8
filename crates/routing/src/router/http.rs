//! HTTP and gRPC routes of one table, compiled.
//!
//! Every match of every rule is an entry. Where its path is looked for decides first, its rank among entries of the same
//! path second (gateway-api.md 3.2 and 4):
//!
//! 1. exact paths, and gRPC calls with service and method;
//! 2. path prefixes from the longest to the shortest, and gRPC services; without `/`;
//! 3. regular expressions, the longer one (in characters) first;
//! 4. gRPC methods of any service;
//! 5. everything: the prefix `/`, and matches without a path.
//!
//! The place of regular expressions is ours to choose. They stand before `/`, because a catch-all is what is left when
//! nothing else fits, and behind all other prefixes.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::answer::{Answer, Cause};
use crate::condition::Entry;
use crate::mistake::{Mistake, Workbench};
use crate::model::{GrpcMatch, HttpTable, Match, PathMatch, Rule};
use crate::passage::Passage;
use crate::prefixes::Prefixes;
use crate::request::RequestView;
use crate::route::Route;
use crate::router::pattern::{Pattern, Patterns};
use crate::slot::Slot;

/// HTTP and gRPC routes of one table, compiled.
#[derive(Debug)]
pub struct HttpRouter {
    grpc: bool,
    routes: Vec<Arc<Route>>,
    exact: HashMap<Box<str>, Slot>,
    prefixes: Prefixes,
    patterns: Patterns,
    /// gRPC methods of any service.
    methods: HashMap<Box<str>, Slot>,
    everything: Slot,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It is answered at once.
    Answer(Answer),
    /// A rule matches: its filters come next.
    Follow(Passage),
}

/// What matched.
struct Hit<'r> {
    entry: &'r Entry,
    /// Bytes of the path that a prefix match names.
    prefix: Option<usize>,
}

impl HttpRouter {
    pub(crate) fn new(table: &HttpTable, bench: &mut Workbench, mistakes: &mut Vec<Mistake>) -> Self {
        let mut made = Self {
            grpc: table.grpc,
            routes: Vec::with_capacity(table.rules.len()),
            exact: HashMap::new(),
            prefixes: Prefixes::default(),
            patterns: Patterns::default(),
            methods: HashMap::new(),
            everything: Slot::default(),
        };
        let mut order = 0;
        for (index, rule) in (0_u32..).zip(&table.rules) {
            let first = made.entries(bench, rule, index, order);
            order = first;
            let route = Route::new(bench, rule, table.grpc);
            mistakes.extend(route.1);
            made.routes.push(Arc::new(route.0));
        }
        made.finish();
        made
    }

    /// Whether these are GRPCRoutes: backends are spoken to in HTTP/2.
    pub fn grpc(&self) -> bool {
        self.grpc
    }

    /// All rules, in the order of the table.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// What becomes of a request.
    pub fn route(&self, request: &RequestView<'_>) -> Decision {
        let found = self.find(request).and_then(|h| self.routes.get(h.entry.route as usize).map(|r| (r, h.prefix)));
        let Some((route, prefix)) = found else {
            return Decision::Answer(Answer::new(Cause::NoRoute, request, None));
        };
        route.decide(prefix, request)
    }

    fn find(&self, request: &RequestView<'_>) -> Option<Hit<'_>> {
        if let Some(entry) = self.exact.get(request.path).and_then(|s| s.find(request)) {
            return Some(Hit { entry, prefix: None });
        }
        for (length, slot) in self.prefixes.along(request.path) {
            if let Some(entry) = slot.find(request) {
                return Some(Hit { entry, prefix: Some(length) });
            }
        }
        if let Some(entry) = self.patterns.find(request) {
            return Some(Hit { entry, prefix: None });
        }
        if !self.methods.is_empty()
            && let Some((_, method)) = request.grpc_call()
            && let Some(entry) = self.methods.get(method).and_then(|s| s.find(request))
        {
            return Some(Hit { entry, prefix: None });
        }
        self.everything.find(request).map(|entry| Hit { entry, prefix: Some(0) })
    }

    /// Files the matches of a rule; the number of matches so far comes back.
    fn entries(&mut self, bench: &mut Workbench, rule: &Rule, index: u32, mut order: u32) -> u32 {
        let all = [Match::default()];
        let matches = if rule.matches.is_empty() { &all[..] } else { &rule.matches };
        for (i, m) in matches.iter().enumerate() {
            let place = format!("matches[{i}]");
            let entry = Entry::new(bench, &place, m, index, order);
            order += 1;
            match (&m.grpc, &m.path) {
                (Some(call), path) => {
                    if path.is_some() {
                        bench.note(&place, "has both a path and a gRPC method; use one of them");
                    }
                    self.file_call(bench, &format!("{place}.method"), call, entry);
                }
                (None, path) => self.file_path(bench, &format!("{place}.path"), path.as_ref(), entry),
            }
        }
        order
    }

    fn file_path(&mut self, bench: &mut Workbench, place: &str, path: Option<&PathMatch>, entry: Entry) {
        if let Some(PathMatch::Exact(text) | PathMatch::Prefix(text)) = path
            && !text.starts_with('/')
        {
            bench.note(place, format!("{text:?} does not begin with a slash"));
        }
        match path {
            None => self.everything.push(entry),
            Some(PathMatch::Exact(text)) => self.exact.entry(text.as_str().into()).or_default().push(entry),
            Some(PathMatch::Prefix(text)) => match text.strip_suffix('/').unwrap_or(text) {
                "" => self.everything.push(entry),
                prefix => self.prefixes.slot(prefix).push(entry),
            },
            Some(PathMatch::Regex(text)) => self.patterns.push(Pattern::path(bench, place, text, entry)),
            Some(PathMatch::Unknown) => {
                bench.note(place, "this kind of match is not known here; use Exact, PathPrefix or RegularExpression");
                self.patterns.push(Pattern::unknown(entry));
            }
        }
    }

    fn file_call(&mut self, bench: &mut Workbench, place: &str, call: &GrpcMatch, entry: Entry) {
        let GrpcMatch { service, method, regex } = call;
        if !regex && (service.contains('/') || method.contains('/')) {
            bench.note(place, "a service or method has no slash");
        }
        match (service.as_str(), method.as_str(), regex) {
            ("", "", _) => self.everything.push(entry),
            (_, _, true) => self.patterns.push(Pattern::call(bench, place, call, entry)),
            ("", method, _) => self.methods.entry(method.into()).or_default().push(entry),
            (service, "", _) => self.prefixes.slot(&format!("/{service}")).push(entry),
            (service, method, _) => {
                self.exact.entry(format!("/{service}/{method}").into()).or_default().push(entry);
            }
        }
    }

    fn finish(&mut self) {
        self.exact.values_mut().chain(self.methods.values_mut()).for_each(Slot::finish);
        self.exact.shrink_to_fit();
        self.methods.shrink_to_fit();
        self.prefixes.finish();
        self.patterns.finish();
        self.everything.finish();
    }
}
