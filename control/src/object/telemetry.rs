//! Telemetry: what waypoints record of requests. What they do not follow is named in a condition.

use std::collections::BTreeMap;
use std::sync::Arc;

use kubernetes::object::telemetry as api;
use proto::routing as wire;

use super::request_policy::parts;
use super::target::targets;
use super::{Faults, Key, Meta, Pool, shown};

/// A Telemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// Names, age, generation.
    pub meta: Meta,
    /// What it is attached to.
    pub targets: Vec<Key>,
    /// Who it is for.
    pub reach: Reach,
    /// What it says.
    pub says: Says,
    /// What is not followed.
    pub faults: Faults,
}

/// Who a Telemetry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its namespace; in the root namespace, the mesh.
    Wide,
    /// Its targets.
    Targets,
    /// Workloads that it selects: nobody, as pods have no proxy.
    Nobody,
}

/// What a Telemetry says. What is absent is as a wider one says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Says {
    sampling: Option<u32>,
    no_spans: Option<bool>,
    tags: Option<Vec<wire::SpanTag>>,
    unlogged: Option<bool>,
    /// Whether a metric is left out.
    metrics: BTreeMap<wire::Metric, bool>,
    /// Whether a label is left out.
    labels: BTreeMap<Arc<str>, bool>,
}

impl Says {
    /// Takes what only a wider one says.
    pub fn inherit(&mut self, wider: &Self) {
        self.sampling = self.sampling.or(wider.sampling);
        self.no_spans = self.no_spans.or(wider.no_spans);
        self.unlogged = self.unlogged.or(wider.unlogged);
        if self.tags.is_none() {
            self.tags.clone_from(&wider.tags);
        }
        for (metric, out) in &wider.metrics {
            self.metrics.entry(*metric).or_insert(*out);
        }
        for (label, out) in &wider.labels {
            self.labels.entry(label.clone()).or_insert(*out);
        }
    }

    /// The message; `None` when it is what a waypoint does without one.
    pub fn message(self) -> Option<wire::Telemetry> {
        let made = wire::Telemetry {
            sampling: self.sampling,
            no_access_log: self.unlogged.unwrap_or_default(),
            no_spans: self.no_spans.unwrap_or_default(),
            span_tags: self.tags.unwrap_or_default(),
            no_metrics: self.metrics.iter().filter(|(_, out)| **out).map(|(m, _)| i32::from(*m)).collect(),
            no_labels: self.labels.iter().filter(|(_, out)| **out).map(|(l, _)| l.to_string()).collect(),
        };
        (made != wire::Telemetry::default()).then_some(made)
    }
}

impl From<&api::Telemetry> for Telemetry {
    fn from(telemetry: &api::Telemetry) -> Self {
        let meta = Meta::new(&telemetry.metadata);
        let spec = &telemetry.spec;
        let mut faults = Faults::default();
        let targets = targets(&spec.target_refs, spec.target_ref.as_ref(), &meta.namespace, true, &mut faults);
        let reach = match (spec.target_refs.is_empty() && spec.target_ref.is_none(), &spec.selector) {
            (false, _) => Reach::Targets,
            (true, Some(selector)) if !selector.match_labels.is_empty() => Reach::Nobody,
            (true, _) => Reach::Wide,
        };
        let mut read = Reader { faults, says: Says::default() };
        for (i, rule) in spec.tracing.iter().enumerate() {
            read.tracing(rule, &format!("spec.tracing[{i}]"));
        }
        for (i, rule) in spec.access_logging.iter().enumerate() {
            read.logging(rule, &format!("spec.accessLogging[{i}]"));
        }
        for (i, rule) in spec.metrics.iter().enumerate() {
            read.metrics(rule, &format!("spec.metrics[{i}]"));
        }
        let Reader { faults, says } = read;
        Self { targets, reach, says, faults, meta }
    }
}

/// Names of the log that a waypoint writes by itself: Istio's own name for it, and ours.
const OWN_LOGS: [&str; 2] = ["envoy", "culvert"];
/// Names of the metrics that a waypoint offers to be scraped.
const OWN_METRICS: [&str; 2] = ["prometheus", "culvert"];

/// Labels of requests that can be hidden: those that have one name, and those that have two (telemetry.md 1).
const LABELS: [&[&str]; 15] = [
    &["source_app", "source_canonical_service"],
    &["source_cluster"],
    &["source_principal"],
    &["source_version", "source_canonical_revision"],
    &["source_workload"],
    &["source_workload_namespace"],
    &["destination_app", "destination_canonical_service"],
    &["destination_cluster"],
    &["destination_principal"],
    &["destination_version", "destination_canonical_revision"],
    &["destination_workload"],
    &["destination_workload_namespace"],
    &["destination_service"],
    &["destination_service_name"],
    &["destination_service_namespace"],
];

struct Reader {
    faults: Faults,
    says: Says,
}

impl Reader {
    /// Notes fields that are not followed where they are set.
    fn unfollowed(&mut self, field: &str, set: &[(&str, bool)]) {
        for (name, _) in set.iter().filter(|(_, set)| *set) {
            self.faults.add(format!("{field}.{name}"), "is not followed", "remove it");
        }
    }

    /// Whether a rule is for the side that a waypoint is on.
    fn here(&mut self, mode: Option<&api::WorkloadMode>, field: &str) -> bool {
        match mode {
            None | Some(api::WorkloadMode::Both | api::WorkloadMode::Server) => true,
            Some(api::WorkloadMode::Client) => {
                let what = "a waypoint stands on the side of the server, so this has no effect";
                self.faults.add(format!("{field}.match.mode"), what, "use SERVER, or leave it out");
                false
            }
            Some(api::WorkloadMode::Other(other)) => {
                let what = format!("{} is not a mode, so this has no effect", shown(other));
                self.faults.add(format!("{field}.match.mode"), what, "use SERVER, or leave it out");
                false
            }
        }
    }

    /// Whether one of the named providers is ours, or none is named.
    fn ours(&mut self, named: &[api::ProviderReference], own: &[&str], field: &str, what: &str) -> bool {
        let mut ours = named.is_empty();
        for (i, provider) in named.iter().enumerate() {
            if own.contains(&provider.name.as_str()) {
                ours = true;
                continue;
            }
            let remedy = format!("use {}, or leave providers out", own.join(" or "));
            let what = format!("{} is not known: {what}", shown(&provider.name));
            self.faults.add(format!("{field}.providers[{i}].name"), what, remedy);
        }
        ours
    }

    fn tracing(&mut self, rule: &api::TracingRule, field: &str) {
        self.unfollowed(
            field,
            &[
                // Where spans go is the waypoint's own setting, the same for all of them.
                ("providers", !rule.providers.is_empty()),
                ("enableIstioTags", rule.enable_istio_tags == Some(false)),
                ("useRequestIdForTraceSampling", rule.use_request_id_for_trace_sampling == Some(true)),
                ("disableContextPropagation", rule.disable_context_propagation == Some(true)),
            ],
        );
        if !self.here(rule.match_.as_ref().and_then(|m| m.mode.as_ref()), field) {
            return;
        }
        if let Some(percent) = rule.random_sampling_percentage {
            match parts(percent) {
                Some(parts) => self.says.sampling = Some(parts),
                None => {
                    let what = format!("{percent} is not a share in percent, so it is left out");
                    self.faults.add(format!("{field}.randomSamplingPercentage"), what, "write 0 to 100");
                }
            }
        }
        self.says.no_spans = rule.disable_span_reporting.or(self.says.no_spans);
        let tags: Vec<_> = rule.custom_tags.iter().filter_map(|(name, tag)| self.tag(name, tag, field)).collect();
        if !rule.custom_tags.is_empty() {
            self.says.tags = Some(tags);
        }
    }

    fn tag(&mut self, name: &str, tag: &api::CustomTag, field: &str) -> Option<wire::SpanTag> {
        use wire::span_tag::Value;
        let at = format!("{field}.customTags[{}]", shown(name));
        let (value, default_value) = match tag {
            api::CustomTag { literal: Some(literal), header: None, environment: None, formatter: None } => {
                (Value::Literal(literal.value.clone()), String::new())
            }
            api::CustomTag { literal: None, header: Some(header), environment: None, formatter: None } => {
                if http::HeaderName::from_bytes(header.name.as_bytes()).is_err() {
                    let what = format!("{} is not the name of a header, so the tag is left out", shown(&header.name));
                    self.faults.add(format!("{at}.header.name"), what, "write a token of letters, digits and -");
                    return None;
                }
                (Value::Header(header.name.clone()), header.default_value.clone().unwrap_or_default())
            }
            _ => {
                let what = "is neither a literal nor a header, so the tag is left out";
                self.faults.add(at, what, "use literal or header");
                return None;
            }
        };
        Some(wire::SpanTag { name: name.to_owned(), value: Some(value), default_value })
    }

    fn logging(&mut self, rule: &api::LoggingRule, field: &str) {
        let what = "a waypoint writes the log that it is told to by its own settings";
        let ours = self.ours(&rule.providers, &OWN_LOGS, field, what);
        if rule.filter.is_some() {
            let what = "is not followed, so every request is written";
            self.faults.add(format!("{field}.filter"), what, "filter where the log is collected, or set disabled");
        }
        if self.here(rule.match_.as_ref().and_then(|m| m.mode.as_ref()), field) && ours {
            // A rule that names a log and nothing else asks for it.
            self.says.unlogged = Some(rule.disabled.unwrap_or_default());
        }
    }

    fn metrics(&mut self, rule: &api::MetricsRule, field: &str) {
        self.unfollowed(field, &[("reportingInterval", rule.reporting_interval.is_some())]);
        if !self.ours(&rule.providers, &OWN_METRICS, field, "a waypoint offers its metrics to Prometheus") {
            return;
        }
        for (i, over) in rule.overrides.iter().enumerate() {
            self.over(over, &format!("{field}.overrides[{i}]"));
        }
    }

    fn over(&mut self, over: &api::MetricsOverride, field: &str) {
        let selector = over.match_.clone().unwrap_or_default();
        if !self.here(selector.mode.as_ref(), field) {
            return;
        }
        if let Some(name) = &selector.custom_metric {
            let what = format!("there is no metric {}, so this has no effect", shown(name));
            self.faults.add(format!("{field}.match.customMetric"), what, "name one of Istio's metrics");
            return;
        }
        let all = matches!(selector.metric, None | Some(api::IstioMetric::All));
        if let Some(disabled) = over.disabled {
            match selector.metric.as_ref().map_or(Some(&ALL[..]), chosen) {
                Some(metrics) => self.says.metrics.extend(metrics.iter().map(|m| (*m, disabled))),
                None => {
                    let what = "can be left out for requests only, so this has no effect";
                    let remedy = "use ALL_METRICS, REQUEST_COUNT, REQUEST_DURATION, REQUEST_SIZE or RESPONSE_SIZE";
                    self.faults.add(format!("{field}.match.metric"), what, remedy);
                }
            }
        }
        for (name, tag) in &over.tag_overrides {
            let at = format!("{field}.tagOverrides[{}]", shown(name));
            if !all {
                let what = "labels are those of all metrics of requests, so this has no effect";
                self.faults.add(at, what, "match ALL_METRICS");
            } else if tag.operation != Some(api::TagOperation::Remove) {
                let what = "values of labels are not expressions, so this has no effect";
                self.faults.add(at, what, "use operation REMOVE, or remove it");
            } else {
                self.hide(name, &over.tag_overrides, &at);
            }
        }
    }
}

impl Reader {
    /// Hides a label, if everything that says the same is hidden with it.
    fn hide(&mut self, name: &str, overrides: &BTreeMap<String, api::TagOverride>, field: &str) {
        let Some(same) = LABELS.iter().find(|names| names.contains(&name)) else {
            let what = "is not a label that can be left out, so this has no effect";
            self.faults.add(field, what, "remove it");
            return;
        };
        let removed = |n: &&&str| overrides.get(**n).is_some_and(|t| t.operation == Some(api::TagOperation::Remove));
        match same.iter().find(|n| !removed(n)) {
            Some(other) => {
                let what = format!("{other} says the same, so this has no effect");
                self.faults.add(field, what, "remove both, or neither");
            }
            None => drop(self.says.labels.insert(name.into(), true)),
        }
    }
}

/// Metrics of requests.
const ALL: [wire::Metric; 4] =
    [wire::Metric::RequestCount, wire::Metric::RequestDuration, wire::Metric::RequestSize, wire::Metric::ResponseSize];

/// The metrics of requests that a name means; `None`: it means others.
fn chosen(metric: &api::IstioMetric) -> Option<&'static [wire::Metric]> {
    match metric {
        api::IstioMetric::All => Some(&ALL),
        api::IstioMetric::RequestCount => ALL.get(0..1),
        api::IstioMetric::RequestDuration => ALL.get(1..2),
        api::IstioMetric::RequestSize => ALL.get(2..3),
        api::IstioMetric::ResponseSize => ALL.get(3..4),
        _ => None,
    }
}

impl Telemetry {
    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
    }
}
