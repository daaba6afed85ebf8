//! The `baggage` header: who the peer's workload is, for telemetry only (hbone.md 4).
//!
//! Nothing in it is trusted: the source principal of a stream comes from the certificate.

use std::fmt;
use std::sync::Arc;

use mesh::Workload;
use mesh::workload::WorkloadType;

/// Bytes of all `baggage` lines that are read; the rest is ignored. Our own stays below 2 KiB.
pub const TOTAL_MAX: usize = 4096;
/// Bytes of one value; longer ones are ignored. Names in Kubernetes have up to 253.
pub const VALUE_MAX: usize = 256;

/// What one workload says of itself. Empty texts are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: Arc<str>,
    /// `k8s.namespace.name`
    pub namespace: Arc<str>,
    /// The `<type>` of `k8s.<type>.name`.
    pub workload_type: WorkloadType,
    /// `k8s.<type>.name`
    pub workload_name: Arc<str>,
    /// `service.name`: the canonical service.
    pub service_name: Arc<str>,
    /// `service.version`: the canonical revision.
    pub service_version: Arc<str>,
    /// `cloud.region`
    pub region: Arc<str>,
    /// `cloud.availability_zone`
    pub zone: Arc<str>,
}

impl From<&Workload> for Baggage {
    fn from(w: &Workload) -> Self {
        Self {
            cluster: w.cluster_id.clone(),
            namespace: w.namespace.clone(),
            workload_type: w.workload_type,
            workload_name: w.workload_name.clone(),
            service_name: w.canonical_name.clone(),
            service_version: w.canonical_revision.clone(),
            region: w.locality.region.clone(),
            zone: w.locality.zone.clone(),
        }
    }
}

impl Baggage {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.pairs().iter().all(|(_, v)| !writable(v))
    }

    /// Reads the lines of a message; later values win. Whatever is not understood is ignored: this is telemetry.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut read = Self::default();
        let mut left = TOTAL_MAX;
        for line in lines {
            for member in line.split(',') {
                // The comma counts too, or a line of commas alone would cost nothing.
                let Some(rest) = left.checked_sub(member.len() + 1) else { return read };
                left = rest;
                // Properties behind a semicolon (W3C Baggage 3.2.1) are not ours to keep.
                let member = member.split(';').next().unwrap_or(member);
                if let Some((key, value)) = member.split_once('=') {
                    read.set(key.trim(), value.trim());
                }
            }
        }
        read
    }

    fn set(&mut self, key: &str, value: &str) {
        if !writable(value) {
            return;
        }
        let field = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service_name,
            "service.version" => &mut self.service_version,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => match TYPES.into_iter().find(|t| key == type_key(*t)) {
                Some(kind) => {
                    self.workload_type = kind;
                    &mut self.workload_name
                }
                None => return,
            },
        };
        *field = value.into();
    }

    /// Keys and values in the order of hbone.md 4.
    fn pairs(&self) -> [(&'static str, &Arc<str>); 7] {
        [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            (type_key(self.workload_type), &self.workload_name),
            ("service.name", &self.service_name),
            ("service.version", &self.service_version),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ]
    }
}

impl fmt::Display for Baggage {
    /// The header's value. A value that could be mistaken for something else on the way is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (key, value) in self.pairs() {
            if writable(value) {
                write!(f, "{comma}{key}={value}")?;
                comma = ",";
            }
        }
        Ok(())
    }
}

const TYPES: [WorkloadType; 4] =
    [WorkloadType::Deployment, WorkloadType::CronJob, WorkloadType::Pod, WorkloadType::Job];

fn type_key(kind: WorkloadType) -> &'static str {
    match kind {
        WorkloadType::CronJob => "k8s.cronjob.name",
        WorkloadType::Deployment => "k8s.deployment.name",
        WorkloadType::Job => "k8s.job.name",
        WorkloadType::Pod => "k8s.pod.name",
    }
}

/// Values are not percent-decoded (hbone.md 4), so what has a meaning in the header cannot stand in one.
fn writable(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= VALUE_MAX
        && value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b';' | b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_stand_in_the_order_of_the_wire() {
        let text = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,\
                    service.version=v1,cloud.region=r1,cloud.availability_zone=z1";
        let read = Baggage::parse([text]);
        assert_eq!(read.workload_type, WorkloadType::Deployment);
        assert_eq!(read.to_string(), text);
    }

    #[test]
    fn lines_are_merged_spaces_and_properties_dropped_and_nothing_is_decoded() {
        let read =
            Baggage::parse(["k8s.namespace.name= a%20b ;x=y, service.name", "unknown=1,service.version=v=2", ""]);
        assert_eq!(&*read.namespace, "a%20b");
        assert_eq!(&*read.service_version, "v=2");
        assert!(read.service_name.is_empty());
    }

    #[test]
    fn what_is_too_long_is_ignored() {
        let long = format!("service.name={}", "x".repeat(VALUE_MAX + 1));
        assert!(Baggage::parse([&*long]).is_empty());
        let filler = ",".repeat(TOTAL_MAX);
        assert!(Baggage::parse([&*filler, "service.name=late"]).is_empty());
    }

    #[test]
    fn values_that_would_break_the_list_are_left_out() {
        let b = Baggage { service_name: "a,service.version=evil".into(), namespace: "ok".into(), ..Baggage::default() };
        assert_eq!(b.to_string(), "k8s.namespace.name=ok");
    }

    fn value() -> impl Strategy<Value = Arc<str>> {
        "[a-zA-Z0-9._%=/-]{0,40}".prop_map(Arc::from)
    }

    proptest! {
        #[test]
        fn no_text_panics(lines in prop::collection::vec("\\PC{0,80}", 0..4)) {
            let read = Baggage::parse(lines.iter().map(String::as_str));
            prop_assert_eq!(Baggage::parse([&*read.to_string()]), read);
        }

        #[test]
        fn what_is_written_is_read(
            cluster in value(), namespace in value(), name in value(), kind in 0usize..4,
            service in value(), version in value(), region in value(), zone in value(),
        ) {
            // Without a name the type is not on the wire.
            let workload_type = if name.is_empty() { WorkloadType::default() } else { TYPES[kind] };
            let b = Baggage {
                cluster, namespace, workload_type, workload_name: name,
                service_name: service, service_version: version, region, zone,
            };
            prop_assert_eq!(Baggage::parse([&*b.to_string()]), b);
        }
    }
}
