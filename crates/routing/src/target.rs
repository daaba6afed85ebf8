//! Backends, checked.

use std::sync::Arc;

use crate::filter::Step;
use crate::mistake::Workbench;
use crate::model::{Backend, Filter, Protocol};

/// Where requests or connections go.
#[derive(Clone, Debug)]
pub struct Target {
    /// Key of the Service, `namespace/hostname`.
    pub service: Arc<str>,
    /// Service port.
    pub port: u16,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Share, relative to the sum of the rule's weights.
    pub weight: u32,
    /// Not usable, and why.
    pub invalid: Option<Arc<str>>,
    /// Applied after the rule's own filters, only when this backend was chosen.
    pub steps: Vec<Step>,
}

impl Target {
    /// Checks a backend. What is wrong with it costs its own share, never the rest of the rule.
    pub(crate) fn new(bench: &mut Workbench, place: &str, backend: &Backend) -> Self {
        Self::of_rule(bench, place, backend, false)
    }

    /// Checks a backend of a rule, all of whose matches name a path prefix or not.
    pub(crate) fn of_rule(bench: &mut Workbench, place: &str, backend: &Backend, prefix_named: bool) -> Self {
        let outer = bench.take();
        if backend.service.is_empty() && backend.invalid.is_none() {
            bench.note(place, "names no Service");
        }
        if backend.port == 0 && backend.invalid.is_none() {
            bench.note(place, "names no port of its Service");
        }
        let steps = steps(bench, place, &backend.filters, prefix_named);
        let found = bench.take();
        let mut invalid = backend.invalid.as_ref().map(|i| i.reason.clone());
        if !found.is_empty() {
            invalid = invalid.or_else(|| Some(found.join("; ").into()));
        }
        bench.put_back(outer, found);
        let Backend { weight, service, port, protocol, .. } = backend;
        Self { service: service.clone(), port: *port, protocol: *protocol, weight: *weight, invalid, steps }
    }
}

/// Checks filters and their company: at most one of each kind but mirrors and checks, and no rewrite beside a redirect
/// (gateway-api.md 3.3, "General").
pub(crate) fn steps(bench: &mut Workbench, place: &str, filters: &[Filter], prefix_named: bool) -> Vec<Step> {
    let at = |i: usize| if place.is_empty() { format!("filters[{i}]") } else { format!("{place}.filters[{i}]") };
    let single = |f: &Filter| match f {
        Filter::Cors(_) => Some("CORS"),
        Filter::Redirect(_) => Some("RequestRedirect"),
        Filter::RequestHeaders(_) => Some("RequestHeaderModifier"),
        Filter::ResponseHeaders(_) => Some("ResponseHeaderModifier"),
        Filter::Rewrite(_) => Some("URLRewrite"),
        Filter::ExternalAuth(_)
        | Filter::ExternalProcessing(_)
        | Filter::Fault(_)
        | Filter::Invalid(_)
        | Filter::LocalRate(_)
        | Filter::Mirror(_) => None,
    };
    let mut taken: Vec<&str> = Vec::new();
    for (i, kind) in filters.iter().enumerate().filter_map(|(i, f)| Some((i, single(f)?))) {
        let other = match kind {
            "RequestRedirect" => "URLRewrite",
            "URLRewrite" => "RequestRedirect",
            same => same,
        };
        if taken.contains(&kind) {
            bench.note(&at(i), format!("a second {kind}; leave one"));
        } else if taken.contains(&other) {
            bench.note(&at(i), format!("{kind} beside {other}; leave one of them"));
        }
        taken.push(kind);
    }
    let made: Vec<Step> = filters.iter().enumerate().filter_map(|(i, f)| Step::new(bench, &at(i), f)).collect();
    if made.iter().any(Step::replaces_prefix) && !prefix_named {
        let place = if place.is_empty() { "filters" } else { place };
        bench.note(place, "ReplacePrefixMatch needs a rule whose matches are all PathPrefix");
    }
    made
}
