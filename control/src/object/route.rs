//! Routes of the Gateway API (gateway-api.md 2 to 5), made ready on arrival: everything but where backends are is compiled into
//! the messages that waypoints get, so that a change of a Service costs a look-up and not a second reading of the route.
//!
//! What cannot be followed stands in its place as `Invalid`: a rule that is broken still wins by its matches and answers 500
//! (gateway-api.md 3.2), a filter that cannot be applied is not skipped (3.3). A match that cannot be read is left out, and a
//! rule of which no match is left with it: nobody knows which requests it means.

mod filter;
mod grpc;
mod http;
mod reference;
mod stream;

use std::sync::Arc;

use proto::routing as wire;

pub use reference::{BackendReference, Parent, Target};
pub(crate) use reference::{read_parent, read_target};

use super::{Faults, Key, Kind, Meta, Pool};

/// Name under which our word on routes and policies is written (design.md 7).
pub const CONTROLLER: &str = "culvert.dev/mesh-controller";

/// A route of any kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Names, age, generation.
    pub meta: Meta,
    /// Its kind.
    pub kind: RouteKind,
    /// What it is attached to, without Gateways, which are not ours.
    pub parents: Vec<Parent>,
    /// Server names, for a TLSRoute.
    pub server_names: Vec<String>,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// Its status has entries of ours.
    pub reported: bool,
    /// What is wrong with it.
    pub faults: Faults,
}

/// Kinds of routes, the strongest first: where several are attached to one port, the strongest one's routes count
/// (gateway-api.md 2, "Several route types on one Service port").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// GRPCRoute.
    Grpc,
    /// HTTPRoute.
    Http,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
}

impl RouteKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Grpc, Self::Http, Self::Tls, Self::Tcp];

    /// The kind of object.
    pub fn object(self) -> Kind {
        match self {
            Self::Grpc => Kind::GrpcRoute,
            Self::Http => Kind::HttpRoute,
            Self::Tcp => Kind::TcpRoute,
            Self::Tls => Kind::TlsRoute,
        }
    }
}

/// A rule. Everything but its backends is ready.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// None of its matches can be read, so that it is left out.
    pub dropped: bool,
    /// The message, without filters and backends.
    pub ready: wire::Rule,
    /// Filters, in their order.
    pub filters: Vec<Filter>,
    /// Where requests go.
    pub backends: Vec<Backend>,
}

/// A filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Asks somebody; the message has everything but whom.
    Auth(BackendReference, wire::ExternalAuth),
    /// What the RequestPolicy of this name says, in the route's namespace; and the field, for messages.
    Extension(Arc<str>, Arc<str>),
    /// Sends copies; the message has everything but where.
    Mirror(BackendReference, wire::Mirror),
    /// Shows it to somebody who may change it; the message has everything but whom.
    Process(BackendReference, wire::ExternalProcessing),
    /// Needs nobody.
    Ready(wire::Filter),
}

/// A backend with its share.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Whom.
    pub to: BackendReference,
    /// Share; 0 gets nothing.
    pub weight: u32,
    /// Filters of its own.
    pub filters: Vec<Filter>,
}

impl Route {
    /// The key.
    pub fn key(&self) -> Key {
        self.meta.key(self.kind.object())
    }

    /// Who is first of two routes (gateway-api.md 3.2, lines 6 and 7).
    pub fn age(&self) -> (i64, &str, &str) {
        (self.meta.created, &self.meta.namespace, &self.meta.name)
    }

    /// Every backend that it names, those of mirrors and authorizers too.
    pub fn references(&self) -> impl Iterator<Item = &BackendReference> {
        self.rules.iter().flat_map(Rule::references)
    }

    /// RequestPolicies that it names, and in which fields.
    pub fn extensions(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.rules.iter().flat_map(Rule::filters).filter_map(|filter| match filter {
            Filter::Extension(name, field) => Some((name, field)),
            _ => None,
        })
    }

    /// Whether it has a rule of this name, or without a name at this index.
    pub fn has_rule(&self, name: &str) -> bool {
        self.rules.iter().any(|rule| rule.is_named(name))
    }

    /// Whether no rule can be followed.
    pub fn hopeless(&self) -> bool {
        !self.rules.is_empty() && self.rules.iter().all(|r| r.dropped || r.ready.invalid.is_some())
    }

    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
    }
}

impl Rule {
    fn references(&self) -> impl Iterator<Item = &BackendReference> {
        self.backends.iter().map(|b| &b.to).chain(self.filters().filter_map(Filter::asks))
    }

    /// Its own filters, and those of its backends.
    fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.backends.iter().flat_map(|b| &b.filters).chain(&self.filters)
    }

    /// Whether this is its name, or its index where it has none.
    pub fn is_named(&self, name: &str) -> bool {
        self.ready.route.as_ref().is_some_and(|route| route.rule == name)
    }
}

impl Filter {
    /// Whom it needs.
    pub fn asks(&self) -> Option<&BackendReference> {
        match self {
            Self::Auth(to, _) | Self::Mirror(to, _) | Self::Process(to, _) => Some(to),
            Self::Extension(..) | Self::Ready(_) => None,
        }
    }

    fn invalid(reason: String) -> Self {
        let kind = wire::filter::Kind::Invalid(wire::Invalid { reason });
        Self::Ready(wire::Filter { kind: Some(kind) })
    }
}

/// The name of a rule: its own, else its index.
fn rule_name(kind: RouteKind, meta: &Meta, name: Option<&str>, index: usize) -> wire::RouteName {
    wire::RouteName {
        kind: kind.object().as_str().to_owned(),
        namespace: meta.namespace.to_string(),
        name: meta.name.to_string(),
        rule: name.map_or_else(|| index.to_string(), ToOwned::to_owned),
    }
}

/// Whether a status has entries of ours.
fn reported(status: Option<&kubernetes::object::route::RouteStatus>) -> bool {
    status.is_some_and(|s| s.parents.iter().any(|p| p.controller_name == CONTROLLER))
}

fn parents(refs: &[kubernetes::object::route::ParentReference], meta: &Meta) -> Vec<Parent> {
    refs.iter().filter_map(|r| read_parent(r, &meta.namespace)).collect()
}

/// A duration of the Gateway API (GEP-2257): up to four groups of a whole number of at most five digits and `h`, `m`, `s` or
/// `ms`.
pub(crate) fn duration(text: &str) -> Option<std::time::Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (scale, after) = if let Some(after) = unit.strip_prefix("ms") {
            (1, after)
        } else if let Some(after) = unit.strip_prefix('s') {
            (1000, after)
        } else if let Some(after) = unit.strip_prefix('m') {
            (60_000, after)
        } else {
            (3_600_000, unit.strip_prefix('h')?)
        };
        total += number.parse::<u64>().ok()? * scale;
        rest = after;
        if rest.is_empty() {
            return Some(std::time::Duration::from_millis(total));
        }
    }
    None
}

/// The wire's duration.
pub(crate) fn wire_duration(of: std::time::Duration) -> prost_types::Duration {
    // Five digits of hours four times over are far below i64, and nanoseconds of a second are below i32.
    prost_types::Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(of.subsec_nanos()).unwrap_or_default(),
    }
}

/// Reads a duration, or notes the fault.
fn timeout(text: Option<&str>, field: &str, faults: &mut Faults) -> Result<Option<prost_types::Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    match duration(text) {
        Some(read) => Ok(Some(wire_duration(read))),
        None => {
            let what = format!("{} is not a duration", super::shown(text));
            faults.add(field, what.clone(), "write it as 10s, 1m30s or 250ms");
            Err(format!("{field}: {what}"))
        }
    }
}

/// A text that many have.
fn arc(text: &str) -> Arc<str> {
    text.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::duration;

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        let good = [("10s", 10_000), ("1m30s", 90_000), ("0s", 0), ("1h2m3s4ms", 3_723_004), ("99999ms", 99_999)];
        for (text, millis) in good {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "100000s", "1h1h1h1h1h", "1d", "1S", "1 s", "1us"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
