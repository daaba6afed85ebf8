//! RequestPolicy: bounds of requests, faults on purpose, external processing.
//!
//! What cannot be read stands in its place and refuses: a bound that nobody understands must not become no bound.

use std::sync::Arc;

use kubernetes::object::request_policy as api;
use proto::routing as wire;
use wire::filter::Kind as Made;

use super::route::{BackendReference, Filter, duration, read_target, wire_duration};
use super::{Faults, Key, Kind, Meta, Pool, shown};

/// API group of the kind.
pub(crate) const GROUP: &str = "culvert.dev";

/// A RequestPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestPolicy {
    /// Names, age, generation.
    pub meta: Meta,
    /// What it is attached to, and for a route the name of the rule where one is said.
    pub targets: Vec<(Key, Option<Arc<str>>)>,
    /// Bounds, or why one cannot be read. Their names are given where they are attached.
    pub limits: Vec<Result<wire::LocalRate, String>>,
    /// The fault and the processors, in the order in which they apply.
    pub filters: Vec<Filter>,
    /// What is wrong with it.
    pub faults: Faults,
}

impl From<&api::RequestPolicy> for RequestPolicy {
    fn from(policy: &api::RequestPolicy) -> Self {
        let meta = Meta::new(&policy.metadata);
        let spec = &policy.spec;
        let mut read = Reader { faults: Faults::default(), own: meta.namespace.clone() };
        let targets = spec.target_refs.iter().enumerate().filter_map(|(i, t)| read.target(t, i)).collect();
        let limits = spec.rate_limits.iter().enumerate();
        let limits: Vec<_> = limits.map(|(i, l)| read.limit(l, &format!("spec.rateLimits[{i}]"))).collect();
        let mut filters: Vec<Filter> = spec.fault.iter().map(|f| read.fault(f)).collect();
        for (i, processing) in spec.external_processing.iter().enumerate() {
            filters.push(read.processing(processing, &format!("spec.externalProcessing[{i}]")));
        }
        if limits.is_empty() && filters.is_empty() {
            let remedy = "write one of rateLimits, fault and externalProcessing; check the spelling";
            read.faults.add("spec", "says nothing that is to be done", remedy);
        }
        Self { targets, limits, filters, faults: read.faults, meta }
    }
}

struct Reader {
    faults: Faults,
    /// The policy's namespace.
    own: Arc<str>,
}

impl Reader {
    fn target(
        &mut self,
        of: &kubernetes::object::SectionTargetReference,
        index: usize,
    ) -> Option<(Key, Option<Arc<str>>)> {
        let field = format!("spec.targetRefs[{index}]");
        let kind = match (of.group.as_str(), of.kind.as_str()) {
            ("" | "core", "Service") => Kind::Service,
            ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
            ("gateway.networking.k8s.io", "Gateway") => Kind::Gateway,
            ("gateway.networking.k8s.io", "HTTPRoute") => Kind::HttpRoute,
            ("gateway.networking.k8s.io", "GRPCRoute") => Kind::GrpcRoute,
            (group, kind) => {
                let what = format!("{} of group {} cannot be a target, so it is left out", shown(kind), shown(group));
                self.faults.add(field, what, "name a Service, ServiceEntry, HTTPRoute, GRPCRoute or Gateway");
                return None;
            }
        };
        let route = matches!(kind, Kind::GrpcRoute | Kind::HttpRoute);
        if !route && of.section_name.is_some() {
            let what = format!("a part of a {kind} cannot be a target, so it is left out");
            self.faults.add(format!("{field}.sectionName"), what, "remove it, or name a rule of a route");
            return None;
        }
        let key = Key::new(kind, self.own.clone(), of.name.as_str());
        Some((key, of.section_name.as_deref().map(Arc::from)))
    }

    /// Notes what makes a part of the policy refuse.
    fn refuses(&mut self, field: &str, what: &str, remedy: &str) -> String {
        self.faults.add(field, format!("{what}, so requests that it is for are answered 500"), remedy);
        format!("{field}: {what}")
    }

    fn time(&mut self, text: &str, field: &str) -> Result<std::time::Duration, String> {
        duration(text).ok_or_else(|| {
            self.refuses(field, &format!("{} is not a duration", shown(text)), "write it as 10s, 1m30s or 250ms")
        })
    }

    fn count(&mut self, number: i64, least: u32, field: &str) -> Result<u32, String> {
        u32::try_from(number).ok().filter(|n| *n >= least).ok_or_else(|| {
            let remedy = format!("write a number from {least} to {}", u32::MAX);
            self.refuses(field, &format!("{number} is not a number of requests"), &remedy)
        })
    }

    /// Parts per million of a percentage.
    fn share(&mut self, percent: f64, field: &str) -> Result<u32, String> {
        match parts(percent) {
            Some(parts) => Ok(parts),
            None => Err(self.refuses(field, &format!("{percent} is not a share in percent"), "write 0 to 100")),
        }
    }

    fn limit(&mut self, of: &api::RateLimit, field: &str) -> Result<wire::LocalRate, String> {
        // All of them are read, so that all mistakes are told at once.
        let requests = self.count(of.requests, 0, &format!("{field}.requests"));
        let burst = of.burst.map(|b| self.count(b, 1, &format!("{field}.burst"))).transpose();
        let at = format!("{field}.per");
        let per = self.time(&of.per, &at).and_then(|per| match per.is_zero() {
            true => Err(self.refuses(&at, "no request fits into no time", "write a time above 0, as 1s")),
            false => Ok(per),
        });
        Ok(wire::LocalRate {
            requests: requests?,
            burst: burst?.unwrap_or_default(),
            per: Some(wire_duration(per?)),
            per_identity: of.per_identity.unwrap_or_default(),
            name: String::new(),
        })
    }

    fn fault(&mut self, of: &api::Fault) -> Filter {
        let delay = of.delay.as_ref().map(|delay| {
            let share = self.share(delay.percent, "spec.fault.delay.percent");
            let time = self.time(&delay.duration, "spec.fault.delay.duration");
            Ok::<_, String>((share?, time?))
        });
        let abort = of.abort.as_ref().map(|abort| {
            let share = self.share(abort.percent, "spec.fault.abort.percent");
            let status = u32::try_from(abort.status).ok().filter(|s| (200..600).contains(s)).ok_or_else(|| {
                let what = format!("{} is not the status of an answer", abort.status);
                self.refuses("spec.fault.abort.status", &what, "write a number from 200 to 599")
            });
            Ok::<_, String>((share?, status?))
        });
        if delay.is_none() && abort.is_none() {
            self.faults.add("spec.fault", "says nothing", "write delay, abort, or both");
        }
        let made = delay.transpose().and_then(|delay| Ok((delay, abort.transpose()?))).map(|(delay, abort)| {
            let (delay_share, time) = delay.unwrap_or_default();
            let (abort_share, abort_status) = abort.unwrap_or_default();
            Made::Fault(wire::Fault { delay_share, delay: Some(wire_duration(time)), abort_share, abort_status })
        });
        ready(made)
    }

    fn processing(&mut self, of: &api::ExternalProcessing, field: &str) -> Filter {
        let timeout = of.timeout.as_deref().map(|t| self.time(t, &format!("{field}.timeout"))).transpose();
        let (request_headers, response_headers) =
            (of.request_headers.unwrap_or(true), of.response_headers.unwrap_or_default());
        if !request_headers && !response_headers {
            let what = "it sees headers neither of requests nor of answers, so it is never asked";
            self.faults.add(field, what, "set requestHeaders or responseHeaders");
        }
        match timeout {
            Ok(timeout) => Filter::Process(
                read_target(&of.backend_ref, &self.own, &format!("{field}.backendRef")),
                wire::ExternalProcessing {
                    backend: None,
                    timeout: timeout.filter(|t| !t.is_zero()).map(wire_duration),
                    fail_open: of.fail_open.unwrap_or_default(),
                    request_headers,
                    response_headers,
                },
            ),
            Err(reason) => ready(Err(reason)),
        }
    }
}

/// Parts per million of a percentage; `None` when it is none.
pub(super) fn parts(percent: f64) -> Option<u32> {
    // A million fits, and rounding keeps it in its bounds.
    (0.0..=100.0).contains(&percent).then(|| (percent * 10_000.0).round() as u32)
}

fn ready(made: Result<Made, String>) -> Filter {
    let kind = made.unwrap_or_else(|reason| Made::Invalid(wire::Invalid { reason }));
    Filter::Ready(wire::Filter { kind: Some(kind) })
}

impl RequestPolicy {
    /// Whom it asks.
    pub fn references(&self) -> impl Iterator<Item = &BackendReference> {
        self.filters.iter().filter_map(Filter::asks)
    }

    /// Why a part of it refuses, if one does.
    pub fn invalid(&self) -> Option<&str> {
        let filters = self.filters.iter().filter_map(|f| match f {
            Filter::Ready(wire::Filter { kind: Some(Made::Invalid(invalid)) }) => Some(invalid.reason.as_str()),
            _ => None,
        });
        self.limits.iter().filter_map(|l| l.as_ref().err().map(String::as_str)).chain(filters).next()
    }

    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn shares_are_parts_of_a_million() {
        assert_eq!([0.0, 0.0001, 12.5, 100.0].map(parts), [Some(0), Some(1), Some(125_000), Some(1_000_000)]);
        assert_eq!([-0.1, 100.1, f64::NAN, f64::INFINITY].map(parts), [None; 4]);
    }
}
