//! DestinationRule: the part of `trafficPolicy` that a waypoint follows. The rest is named in a condition.

use std::sync::Arc;
use std::time::Duration;

use kubernetes::object::networking as api;
use proto::routing as wire;
use serde_json::Value;

use super::route::wire_duration;
use super::{Faults, Meta, Pool, shown};

/// A DestinationRule.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// Names, age, generation.
    pub meta: Meta,
    /// Host as it is written, in lower case.
    pub host: Arc<str>,
    /// What is followed. The default one says nothing.
    pub traffic: wire::Traffic,
    /// Other namespaces see it too.
    pub exported: bool,
    /// Conditions of ours are in its status.
    pub reported: bool,
    /// What is not followed.
    pub faults: Faults,
}

impl From<&api::DestinationRule> for DestinationRule {
    fn from(rule: &api::DestinationRule) -> Self {
        let mut faults = Faults::default();
        let spec = &rule.spec;
        let traffic = spec.traffic_policy.as_ref().map(|p| traffic(p, &mut faults)).unwrap_or_default();
        if !spec.subsets.is_empty() {
            let what = "parts of the endpoints are for VirtualServices, which are not followed";
            faults.add("spec.subsets", what, "make a Service for each part, and share requests out by an HTTPRoute");
        }
        if spec.host.contains('*') {
            faults.add("spec.host", "patterns are not followed", "write one rule for each host");
        }
        if spec.workload_selector.is_some() {
            faults.add("spec.workloadSelector", "is not followed, so the rule is for every client", "remove it");
        }
        let conditions = rule.status.iter().flat_map(|s| s.conditions.iter());
        Self {
            host: spec.host.to_ascii_lowercase().into(),
            exported: spec.export_to.is_empty() || spec.export_to.iter().any(|e| e == "*"),
            reported: super::reported(conditions.map(|c| c.type_.as_str())),
            meta: Meta::new(&rule.metadata),
            traffic,
            faults,
        }
    }
}

/// Reads a policy, field by field.
struct Reader<'a> {
    faults: &'a mut Faults,
}

fn traffic(policy: &api::TrafficPolicy, faults: &mut Faults) -> wire::Traffic {
    let mut read = Reader { faults };
    let mut made = wire::Traffic::default();
    read.rest("spec.trafficPolicy", &policy.others);
    if let Some(balancer) = &policy.load_balancer {
        read.balancer(balancer, &mut made);
    }
    if let Some(pool) = &policy.connection_pool {
        read.pool(pool, &mut made);
    }
    made.outliers = policy.outlier_detection.as_ref().map(|o| read.outliers(o));
    made.tls = policy.tls.as_ref().and_then(|t| read.tls(t, "spec.trafficPolicy.tls"));
    read.ports(&policy.port_level_settings, &mut made);
    made
}

impl Reader<'_> {
    fn rest<'v>(&mut self, field: &str, others: impl IntoIterator<Item = (&'v String, &'v Value)>) {
        for (name, _) in others {
            let name = name.chars().take(64).collect::<String>();
            self.faults.add(format!("{field}.{name}"), "is not followed", "remove it");
        }
    }

    fn count(&mut self, value: Option<i64>, field: &str) -> u32 {
        let Some(value) = value else { return 0 };
        u32::try_from(value).unwrap_or_else(|_| {
            self.faults.add(field, format!("{value} is not a bound, so there is none"), "write 1 or more");
            0
        })
    }

    fn time(&mut self, text: Option<&str>, field: &str) -> Option<prost_types::Duration> {
        let text = text?;
        let read = go_duration(text);
        if read.is_none() {
            let what = format!("{} is not a duration, so it is left out", shown(text));
            self.faults.add(field, what, "write it as 1s, 1m30s or 250ms");
        }
        read.map(wire_duration)
    }

    fn balancer(&mut self, of: &api::LoadBalancer, made: &mut wire::Traffic) {
        use api::SimpleBalancer;
        let field = "spec.trafficPolicy.loadBalancer";
        self.rest(field, &of.others);
        let balance = match &of.simple {
            None | Some(SimpleBalancer::Unspecified | SimpleBalancer::LeastRequest | SimpleBalancer::LeastConn) => {
                wire::Balance::LeastLoad
            }
            Some(SimpleBalancer::RoundRobin) => wire::Balance::RoundRobin,
            Some(SimpleBalancer::Random) => wire::Balance::Random,
            Some(other) => {
                let what = format!(
                    "{} is not followed, so the endpoint with the smallest load is chosen",
                    shown(other.as_str())
                );
                self.faults.add(format!("{field}.simple"), what, "use LEAST_REQUEST, ROUND_ROBIN or RANDOM");
                wire::Balance::LeastLoad
            }
        };
        made.set_balance(balance);
        let Some(hash) = &of.consistent_hash else { return };
        let field = format!("{field}.consistentHash");
        self.rest(&field, &hash.others);
        made.hash_header = hash.http_header_name.clone().unwrap_or_default();
        made.hash_cookie = hash.http_cookie.as_ref().map(|c| c.name.clone()).unwrap_or_default();
        made.hash_source = hash.use_source_ip.unwrap_or_default();
        if made.hash_header.is_empty() && made.hash_cookie.is_empty() && !made.hash_source {
            let what = "of what the hash is is not followed, so the endpoint with the smallest load is chosen";
            self.faults.add(field, what, "use httpHeaderName, httpCookie or useSourceIp");
        } else {
            made.set_balance(wire::Balance::ConsistentHash);
        }
    }

    fn pool(&mut self, of: &api::ConnectionPool, made: &mut wire::Traffic) {
        let field = "spec.trafficPolicy.connectionPool";
        self.rest(field, &of.others);
        if let Some(tcp) = &of.tcp {
            let at = |name: &str| format!("{field}.tcp.{name}");
            self.rest(&format!("{field}.tcp"), &tcp.others);
            made.max_connections = self.count(tcp.max_connections, &at("maxConnections"));
            made.connect_timeout = self.time(tcp.connect_timeout.as_deref(), &at("connectTimeout"));
            made.idle_timeout = self.time(tcp.idle_timeout.as_deref(), &at("idleTimeout"));
        }
        if let Some(http) = &of.http {
            let at = |name: &str| format!("{field}.http.{name}");
            self.rest(&format!("{field}.http"), &http.others);
            made.max_pending = self.count(http.max_pending, &at("http1MaxPendingRequests"));
            made.max_requests = self.count(http.max_requests, &at("http2MaxRequests"));
            made.max_retries = self.count(http.max_retries, &at("maxRetries"));
            if let Some(idle) = self.time(http.idle_timeout.as_deref(), &at("idleTimeout")) {
                made.idle_timeout = Some(idle);
            }
            made.http2 = http.h2_upgrade_policy == Some(api::H2Upgrade::Always);
        }
    }

    fn outliers(&mut self, of: &api::OutlierDetection) -> wire::Outliers {
        let at = |name: &str| format!("spec.trafficPolicy.outlierDetection.{name}");
        self.rest("spec.trafficPolicy.outlierDetection", &of.others);
        wire::Outliers {
            // Five in a row is Istio's default; 0 switches it off, which the wire says by 0 as well.
            consecutive_5xx: of.consecutive_5xx.map_or(5, |n| self.count(Some(n), &at("consecutive5xxErrors"))),
            consecutive_gateway_errors: self.count(of.consecutive_gateway, &at("consecutiveGatewayErrors")),
            interval: self.time(of.interval.as_deref(), &at("interval")),
            base_ejection: self.time(of.base_ejection_time.as_deref(), &at("baseEjectionTime")),
            max_ejection_percent: self.count(of.max_ejection_percent, &at("maxEjectionPercent")).min(100),
            min_health_percent: self.count(of.min_health_percent, &at("minHealthPercent")).min(100),
        }
    }

    /// TLS of single ports. What one says stands in place of what is said for all, also when it says nothing of TLS.
    fn ports(&mut self, of: &[api::PortSettings], made: &mut wire::Traffic) {
        for (i, one) in of.iter().enumerate() {
            let field = format!("spec.trafficPolicy.portLevelSettings[{i}]");
            self.rest(&field, &one.others);
            let Ok(number @ 1..) = u16::try_from(one.port.number) else {
                let what = format!("{} is no port, so nothing of it is followed", one.port.number);
                self.faults.add(format!("{field}.port.number"), what, "write the number of a port of the service");
                continue;
            };
            let tls = one.tls.as_ref().and_then(|tls| self.tls(tls, &format!("{field}.tls")));
            let off = || wire::BackendTls { off: true, ..wire::BackendTls::default() };
            if let Some(tls) = tls.or_else(|| made.tls.is_some().then(off)) {
                made.port_tls.insert(number.into(), tls);
            }
        }
    }

    /// Certificates in files or Secrets are nothing that we have, and what is to be TLS is never sent in clear.
    fn tls(&mut self, of: &api::ClientTls, field: &str) -> Option<wire::BackendTls> {
        let mut invalid = None;
        match &of.mode {
            // The tunnel has the mesh's own TLS already.
            None | Some(api::TlsMode::Disable | api::TlsMode::IstioMutual) => return None,
            Some(api::TlsMode::Simple) => {
                if let Some((name, _)) = of.others.iter().next() {
                    let name = name.chars().take(64).collect::<String>();
                    invalid = Some(format!("{field}.{name} cannot be followed"));
                }
            }
            Some(other) => invalid = Some(format!("{field}.mode: {} cannot be followed", shown(other.as_str()))),
        }
        if let Some(reason) = &invalid {
            let remedy = "use SIMPLE with the system's roots, or a BackendTLSPolicy";
            self.faults.add(field, format!("{reason}, so the host answers 503"), remedy);
        }
        Some(wire::BackendTls {
            server_name: of.sni.clone().unwrap_or_default(),
            subject_alt_names: of.subject_alt_names.clone(),
            invalid: invalid.map(|reason| wire::Invalid { reason }),
            ..wire::BackendTls::default()
        })
    }
}

/// A duration as Go and protobuf write it: numbers with fractions and units, such as `1.5s`, `1h30m`, `250ms`.
fn go_duration(text: &str) -> Option<Duration> {
    /// A year: longer is a mistake, and shorter cannot overflow.
    const MOST: f64 = 366.0 * 86_400.0;
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, unit) = rest.split_at(digits);
        let letters = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = unit.split_at(letters);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    (!text.is_empty() && total <= MOST).then(|| Duration::from_secs_f64(total))
}

impl DestinationRule {
    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
        pool.text(&mut self.host);
    }

    /// Whether it says anything that a waypoint is needed for.
    pub fn speaks(&self) -> bool {
        self.traffic != wire::Traffic::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, millis) in [("1.5s", 1500), ("1h30m", 5_400_000), ("250ms", 250), ("0s", 0)] {
            assert_eq!(go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "1d", "s", "-1s", "999999h", "1.2.3s", "NaNs"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
