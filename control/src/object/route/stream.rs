//! TCPRoute and TLSRoute (gateway-api.md 5).

use kubernetes::object::route as api;
use proto::routing as wire;

use super::http::{Broken, weight};
use super::{Backend, Route, RouteKind, Rule, read_target, rule_name};
use crate::object::{Faults, Meta, shown};

impl From<&api::TcpRoute> for Route {
    fn from(route: &api::TcpRoute) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&route.metadata);
        Self {
            parents: super::parents(&route.spec.parent_refs, &meta),
            kind: RouteKind::Tcp,
            server_names: Vec::new(),
            rules: rules(RouteKind::Tcp, &route.spec.rules, &meta, &mut faults),
            reported: super::reported(route.status.as_ref()),
            meta,
            faults,
        }
    }
}

impl From<&api::TlsRoute> for Route {
    fn from(route: &api::TlsRoute) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&route.metadata);
        let mut rules = rules(RouteKind::Tls, &route.spec.rules, &meta, &mut faults);
        for (i, name) in route.spec.hostnames.iter().enumerate() {
            let rest = name.strip_prefix("*.").unwrap_or(name);
            let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
            if rest.is_empty() || !rest.bytes().all(legal) {
                let what = format!("{} is not a server name", shown(name));
                faults.add(
                    format!("spec.hostnames[{i}]"),
                    what.clone(),
                    "write a DNS name such as api.example or *.example",
                );
                for rule in &mut rules {
                    let reason = format!("spec.hostnames[{i}]: {what}");
                    rule.ready.invalid.get_or_insert(wire::Invalid { reason });
                }
            }
        }
        Self {
            parents: super::parents(&route.spec.parent_refs, &meta),
            kind: RouteKind::Tls,
            server_names: route.spec.hostnames.iter().map(|h| h.to_ascii_lowercase()).collect(),
            rules,
            reported: super::reported(route.status.as_ref()),
            meta,
            faults,
        }
    }
}

fn rules(kind: RouteKind, rules: &[api::StreamRule], meta: &Meta, faults: &mut Faults) -> Vec<Rule> {
    let one = |(index, rule): (usize, &api::StreamRule)| {
        let field = format!("spec.rules[{index}]");
        let mut broken = Broken::default();
        // A connection has nothing by which a second rule could be chosen.
        if index > 0 {
            let what = "a connection has nothing by which a second rule could be chosen";
            faults.add(field.clone(), what, "write one rule with all backends");
            broken.by(format!("{field}: {what}"));
        }
        let backends = rule.backend_refs.iter().enumerate().map(|(i, b)| {
            let at = format!("{field}.backendRefs[{i}]");
            let weight = weight(b.weight, &at, faults, &mut broken);
            Backend { to: read_target(&b.to, &meta.namespace, &at), weight, filters: Vec::new() }
        });
        let backends = backends.collect();
        let ready = wire::Rule {
            route: Some(rule_name(kind, meta, rule.name.as_deref(), index)),
            invalid: broken.0.map(|reason| wire::Invalid { reason }),
            ..wire::Rule::default()
        };
        Rule { dropped: false, ready, filters: Vec::new(), backends }
    };
    rules.iter().enumerate().map(one).collect()
}
