//! GRPCRoute (gateway-api.md 4).

use kubernetes::object::route as api;
use proto::routing as wire;

use super::filter::{Place, filters};
use super::http::{Broken, backends, headers, regex, session_of, unknown};
use super::{Route, RouteKind, Rule, rule_name};
use crate::object::{Faults, Meta, shown};

impl From<&api::GrpcRoute> for Route {
    fn from(route: &api::GrpcRoute) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&route.metadata);
        let rules = route.spec.rules.iter().enumerate().map(|(i, r)| rule(r, i, &meta, &mut faults)).collect();
        Self {
            parents: super::parents(&route.spec.parent_refs, &meta),
            kind: RouteKind::Grpc,
            server_names: Vec::new(),
            rules,
            reported: super::reported(route.status.as_ref()),
            meta,
            faults,
        }
    }
}

fn rule(rule: &api::GrpcRule, index: usize, meta: &Meta, faults: &mut Faults) -> Rule {
    let field = format!("spec.rules[{index}]");
    let mut broken = Broken::default();
    let matches = rule.matches.iter().enumerate();
    let matches = matches.filter_map(|(i, m)| {
        let mut unread = Broken::default();
        let made = call_match(m, &format!("{field}.matches[{i}]"), faults, &mut unread);
        unread.0.is_none().then_some(made)
    });
    let matches: Vec<_> = matches.collect();
    let dropped = matches.is_empty() && !rule.matches.is_empty();
    let place = Place { kind: RouteKind::Grpc, own: &meta.namespace, prefixes: 0 };
    let filters = filters(&rule.filters, &format!("{field}.filters"), &place, faults, &mut broken);
    let session = rule.session_persistence.as_ref();
    let session = session.map(|s| session_of(s, &format!("{field}.sessionPersistence"), faults, &mut broken));
    let backends = backends(&rule.backend_refs, &field, &place, faults, &mut broken);
    let ready = wire::Rule {
        route: Some(rule_name(RouteKind::Grpc, meta, rule.name.as_deref(), index)),
        matches,
        session,
        invalid: broken.0.map(|reason| wire::Invalid { reason }),
        ..wire::Rule::default()
    };
    Rule { dropped, ready, filters, backends }
}

fn call_match(of: &api::GrpcMatch, field: &str, faults: &mut Faults, broken: &mut Broken) -> wire::Match {
    let grpc = of.method.as_ref().and_then(|method| {
        let (service, name) = (method.service.clone().unwrap_or_default(), method.method.clone().unwrap_or_default());
        let by_regex = match &method.type_ {
            None | Some(api::MatchType::Exact) => false,
            Some(api::MatchType::RegularExpression) => true,
            Some(api::MatchType::Other(other)) => {
                let remedy = "use Exact or RegularExpression";
                unknown(other, &format!("{field}.method.type"), remedy, faults, broken);
                return None;
            }
        };
        for (text, part) in [(&service, "service"), (&name, "method")] {
            let at = format!("{field}.method.{part}");
            if by_regex {
                regex(text, &at, faults, broken);
            } else if text.contains('/') {
                let what = format!("{} has a /", shown(text));
                faults.add(at.clone(), what.clone(), "write package and service into service, the rest into method");
                broken.by(format!("{at}: {what}"));
            }
        }
        Some(wire::GrpcMatch { service, method: name, regex: by_regex })
    });
    wire::Match { grpc, headers: headers(&of.headers, field, faults, broken), ..wire::Match::default() }
}
