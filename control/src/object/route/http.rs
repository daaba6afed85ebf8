//! HTTPRoute.

use kubernetes::object::route as api;
use proto::routing as wire;

use super::filter::{Place, filters};
use super::{Backend, Route, RouteKind, Rule, read_target, rule_name, timeout};
use crate::object::{Faults, Meta, shown};

impl From<&api::HttpRoute> for Route {
    fn from(route: &api::HttpRoute) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&route.metadata);
        // Without rules there is one that matches every path (the default that the definition writes).
        let default = [api::HttpRule::default()];
        let rules = route.spec.rules.as_deref().unwrap_or(&default);
        let rules = rules.iter().enumerate().map(|(i, r)| rule(r, i, &meta, &mut faults)).collect();
        Self {
            parents: super::parents(&route.spec.parent_refs, &meta),
            kind: RouteKind::Http,
            server_names: Vec::new(),
            rules,
            reported: super::reported(route.status.as_ref()),
            meta,
            faults,
        }
    }
}

/// The first thing about a rule that makes it impossible to follow.
#[derive(Default)]
pub(super) struct Broken(pub(super) Option<String>);

impl Broken {
    pub(super) fn by(&mut self, reason: String) {
        self.0.get_or_insert(reason);
    }

    pub(super) fn or<T: Default>(&mut self, read: Result<T, String>) -> T {
        read.unwrap_or_else(|reason| {
            self.by(reason);
            T::default()
        })
    }
}

fn rule(rule: &api::HttpRule, index: usize, meta: &Meta, faults: &mut Faults) -> Rule {
    let field = format!("spec.rules[{index}]");
    let mut broken = Broken::default();
    let matches = rule.matches.iter().enumerate();
    let matches = matches.filter_map(|(i, m)| {
        let mut unread = Broken::default();
        let made = request_match(m, &format!("{field}.matches[{i}]"), faults, &mut unread);
        unread.0.is_none().then_some(made)
    });
    let matches: Vec<_> = matches.collect();
    let dropped = matches.is_empty() && !rule.matches.is_empty();
    let place = Place { kind: RouteKind::Http, own: &meta.namespace, prefixes: prefixes(rule) };
    let filters = filters(&rule.filters, &format!("{field}.filters"), &place, faults, &mut broken);
    let timeouts = rule.timeouts.clone().unwrap_or_default();
    let at = |name: &str| format!("{field}.timeouts.{name}");
    let request = broken.or(timeout(timeouts.request.as_deref(), &at("request"), faults));
    let attempt = broken.or(timeout(timeouts.backend_request.as_deref(), &at("backendRequest"), faults));
    let retry = rule.retry.as_ref().map(|r| retry(r, &format!("{field}.retry"), faults, &mut broken));
    let session = rule.session_persistence.as_ref();
    let session = session.map(|s| session_of(s, &format!("{field}.sessionPersistence"), faults, &mut broken));
    let backends = backends(&rule.backend_refs, &field, &place, faults, &mut broken);
    let redirects = rule.filters.iter().any(|f| f.type_ == Some(api::FilterType::RequestRedirect));
    if redirects && !rule.backend_refs.is_empty() {
        let what = "a rule that redirects has backends";
        faults.add(format!("{field}.backendRefs"), what, "remove the backends, or the redirect");
        broken.by(format!("{field}.backendRefs: {what}"));
    }
    let ready = wire::Rule {
        route: Some(rule_name(RouteKind::Http, meta, rule.name.as_deref(), index)),
        matches,
        request_timeout: request,
        backend_timeout: attempt,
        retry,
        session,
        invalid: broken.0.map(|reason| wire::Invalid { reason }),
        ..wire::Rule::default()
    };
    Rule { dropped, ready, filters, backends }
}

pub(super) fn backends(
    refs: &[api::HttpBackendReference],
    field: &str,
    place: &Place<'_>,
    faults: &mut Faults,
    broken: &mut Broken,
) -> Vec<Backend> {
    let one = |(i, b): (usize, &api::HttpBackendReference)| {
        let at = format!("{field}.backendRefs[{i}]");
        Backend {
            to: read_target(&b.to.to, place.own, &at),
            weight: weight(b.to.weight, &at, faults, broken),
            filters: filters(&b.filters, &format!("{at}.filters"), place, faults, broken),
        }
    };
    refs.iter().enumerate().map(one).collect()
}

/// A share; one when absent (gateway-api.md 3.5).
pub(super) fn weight(weight: Option<i64>, field: &str, faults: &mut Faults, broken: &mut Broken) -> u32 {
    /// The bound of the Gateway API.
    const MOST: u32 = 1_000_000;
    let Some(written) = weight else { return 1 };
    u32::try_from(written).ok().filter(|w| *w <= MOST).unwrap_or_else(|| {
        let what = format!("{written} is not a weight");
        faults.add(format!("{field}.weight"), what.clone(), "write a number from 0 to 1000000");
        broken.by(format!("{field}.weight: {what}"));
        0
    })
}

/// Prefixes that a rule matches, for replacing one.
fn prefixes(rule: &api::HttpRule) -> usize {
    let is_prefix = |m: &api::HttpMatch| {
        let kind = m.path.as_ref().and_then(|p| p.type_.as_ref());
        matches!(kind, None | Some(api::PathMatchType::PathPrefix))
    };
    match rule.matches.iter().filter(|m| is_prefix(m)).count() {
        // Without any match there is that of `/`.
        0 if rule.matches.is_empty() => 1,
        n if n == rule.matches.len() => n,
        _ => 0,
    }
}

fn request_match(of: &api::HttpMatch, field: &str, faults: &mut Faults, broken: &mut Broken) -> wire::Match {
    let path = of.path.as_ref().and_then(|path| {
        let value = path.value.clone().unwrap_or_else(|| "/".to_owned());
        use wire::path_match::Kind;
        let kind = match &path.type_ {
            None | Some(api::PathMatchType::PathPrefix) => Kind::Prefix(value),
            Some(api::PathMatchType::Exact) => Kind::Exact(value),
            Some(api::PathMatchType::RegularExpression) => {
                regex(&value, &format!("{field}.path.value"), faults, broken);
                Kind::Regex(value)
            }
            Some(api::PathMatchType::Other(other)) => {
                unknown(
                    other,
                    &format!("{field}.path.type"),
                    "use Exact, PathPrefix or RegularExpression",
                    faults,
                    broken,
                );
                return None;
            }
        };
        if !matches!(kind, Kind::Regex(_)) && !path.value.as_deref().unwrap_or("/").starts_with('/') {
            let what = "does not begin with /, so it matches nothing";
            faults.add(format!("{field}.path.value"), what, "write an absolute path");
            broken.by(format!("{field}.path.value {what}"));
        }
        Some(wire::PathMatch { kind: Some(kind) })
    });
    let method = of.method.clone().unwrap_or_default();
    if !method.bytes().all(|b| b.is_ascii_uppercase()) {
        let what = format!("{} is not a method", shown(&method));
        faults.add(format!("{field}.method"), what.clone(), "write it in upper case, as GET");
        broken.by(format!("{field}.method: {what}"));
    }
    let query = of.query_params.iter().enumerate().filter_map(|(i, q)| {
        use wire::query_match::Kind;
        let kind = match value_match(q, &format!("{field}.queryParams[{i}]"), faults, broken)? {
            Value::Exact(text) => Kind::Exact(text),
            Value::Regex(text) => Kind::Regex(text),
        };
        Some(wire::QueryMatch { name: q.name.clone(), kind: Some(kind) })
    });
    let query = first_only(query.collect(), |q| q.name.clone());
    wire::Match { path, headers: headers(&of.headers, field, faults, broken), query, method, grpc: None }
}

/// Of several with one name the first counts (gateway-api.md 3.1).
fn first_only<T>(all: Vec<T>, name: impl Fn(&T) -> String) -> Vec<T> {
    let mut seen = std::collections::HashSet::new();
    all.into_iter().filter(|x| seen.insert(name(x))).collect()
}

pub(super) fn headers(
    of: &[api::HeaderMatch],
    field: &str,
    faults: &mut Faults,
    broken: &mut Broken,
) -> Vec<wire::HeaderMatch> {
    let headers = of.iter().enumerate().filter_map(|(i, h)| {
        use wire::header_match::Kind;
        let at = format!("{field}.headers[{i}]");
        if h.name.starts_with(':') {
            let what = "is a pseudo header, which cannot be matched by name";
            faults.add(
                format!("{at}.name"),
                what,
                "match path or method by their own fields, and the host by header Host",
            );
            broken.by(format!("{at}.name {what}"));
        }
        let kind = match value_match(h, &at, faults, broken)? {
            Value::Exact(text) => Kind::Exact(text),
            Value::Regex(text) => Kind::Regex(text),
        };
        Some(wire::HeaderMatch { name: h.name.clone(), kind: Some(kind) })
    });
    first_only(headers.collect(), |h| h.name.to_ascii_lowercase())
}

enum Value {
    Exact(String),
    Regex(String),
}

fn value_match(of: &api::HeaderMatch, field: &str, faults: &mut Faults, broken: &mut Broken) -> Option<Value> {
    match &of.type_ {
        None | Some(api::MatchType::Exact) => Some(Value::Exact(of.value.clone())),
        Some(api::MatchType::RegularExpression) => {
            regex(&of.value, &format!("{field}.value"), faults, broken);
            Some(Value::Regex(of.value.clone()))
        }
        Some(api::MatchType::Other(other)) => {
            unknown(other, &format!("{field}.type"), "use Exact or RegularExpression", faults, broken);
            None
        }
    }
}

pub(super) fn unknown(value: &str, field: &str, remedy: &str, faults: &mut Faults, broken: &mut Broken) {
    let what = format!("{} is not known", shown(value));
    faults.add(field, what.clone(), remedy);
    broken.by(format!("{field}: {what}"));
}

/// Whether an expression can be compiled by what waypoints use.
pub(super) fn regex(text: &str, field: &str, faults: &mut Faults, broken: &mut Broken) {
    // As large as routing takes: an expression of 4 KiB compiles to less than 1 MiB unless it counts repetitions.
    const MOST: usize = 1 << 20;
    let made = regex::RegexBuilder::new(text).size_limit(MOST).build();
    if made.is_err() {
        let what = format!("{} is not a regular expression", shown(text));
        faults.add(
            field,
            what.clone(),
            "write it in the syntax of RE2 (crate regex), without look-around and back references",
        );
        broken.by(format!("{field}: {what}"));
    }
}

fn retry(of: &api::Retry, field: &str, faults: &mut Faults, broken: &mut Broken) -> wire::Retry {
    let mut codes = Vec::new();
    for (i, code) in of.codes.iter().enumerate() {
        match u32::try_from(*code).ok().filter(|c| (400..600).contains(c)) {
            Some(code) => codes.push(code),
            None => {
                let what = format!("{code} is not the code of an error");
                faults.add(format!("{field}.codes[{i}]"), what.clone(), "write a number from 400 to 599");
                broken.by(format!("{field}.codes[{i}]: {what}"));
            }
        }
    }
    codes.sort_unstable();
    codes.dedup();
    let written = of.attempts.unwrap_or(1);
    let attempts = u32::try_from(written).unwrap_or_else(|_| {
        let what = format!("{written} is not a number of attempts");
        faults.add(format!("{field}.attempts"), what.clone(), "write 0 or more");
        broken.by(format!("{field}.attempts: {what}"));
        0
    });
    let backoff = broken.or(timeout(of.backoff.as_deref(), &format!("{field}.backoff"), faults));
    wire::Retry { attempts, codes, backoff }
}

pub(super) fn session_of(
    of: &api::SessionPersistence,
    field: &str,
    faults: &mut Faults,
    broken: &mut Broken,
) -> wire::SessionPersistence {
    let cookie = of.cookie.clone().unwrap_or_default();
    let lifetime = broken.or(timeout(of.absolute_timeout.as_deref(), &format!("{field}.absoluteTimeout"), faults));
    let mut made = wire::SessionPersistence { lifetime, ..wire::SessionPersistence::default() };
    match &of.type_ {
        None | Some(api::PersistenceType::Cookie) => {
            // A name of our own where the user does not care.
            made.cookie = cookie.name.unwrap_or_else(|| "culvert-session".to_owned());
            made.permanent = cookie.lifetime_type == Some(api::LifetimeType::Permanent);
            if made.permanent && made.lifetime.is_none() {
                let what = "a permanent cookie needs absoluteTimeout";
                faults.add(format!("{field}.absoluteTimeout"), what, "say how long it lives, as 1h");
                broken.by(format!("{field}: {what}"));
            }
        }
        Some(api::PersistenceType::Header) => match of.header.as_ref().filter(|h| !h.name.is_empty()) {
            Some(header) => made.header = header.name.clone(),
            None => {
                let what = "type Header needs the name of a header";
                faults.add(format!("{field}.header"), what, "name it");
                broken.by(format!("{field}: {what}"));
            }
        },
        Some(api::PersistenceType::Other(other)) => {
            unknown(other, &format!("{field}.type"), "use Cookie or Header", faults, broken);
        }
    }
    made
}
