//! The label set of Istio's TCP metrics (telemetry.md 1): borrowed to look a series up, owned to keep it.

use std::fmt::{self, Write};
use std::hash::Hash;
use std::sync::Arc;

use mesh::{Identity, Service, Workload};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

/// What a label says when nothing is known; never the empty text (telemetry.md 1).
pub const UNKNOWN: &str = "unknown";

/// One end of a connection as it is told by its own side (baggage), where discovery does not know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Name of the owner (`k8s.<type>.name`).
    pub workload: Arc<str>,
    /// `k8s.namespace.name`.
    pub namespace: Arc<str>,
    /// `service.name`: label `app` and the canonical service.
    pub app: Arc<str>,
    /// `service.version`: label `version` and the canonical revision.
    pub version: Arc<str>,
    /// `k8s.cluster.name`.
    pub cluster: Arc<str>,
    /// `cloud.region`.
    pub region: Arc<str>,
    /// `cloud.availability_zone`.
    pub zone: Arc<str>,
}

/// The three parts of a SPIFFE identity, borrowed.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) struct PrincipalRef<'a> {
    trust_domain: &'a str,
    namespace: &'a str,
    service_account: &'a str,
}

/// One end, borrowed. Empty texts mean unknown.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub(crate) struct SideRef<'a> {
    pub(crate) workload: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) app: &'a str,
    pub(crate) version: &'a str,
    pub(crate) cluster: &'a str,
    region: &'a str,
    zone: &'a str,
    pub(crate) principal: Option<PrincipalRef<'a>>,
}

/// The service that was asked for, borrowed.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub(crate) struct ServiceRef<'a> {
    pub(crate) hostname: &'a str,
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
}

/// A whole label set, borrowed from the facts of a connection.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) struct LabelsRef<'a> {
    pub(crate) reporter: &'static str,
    pub(crate) source: SideRef<'a>,
    pub(crate) destination: SideRef<'a>,
    pub(crate) service: ServiceRef<'a>,
    pub(crate) mutual_tls: bool,
    pub(crate) flag: &'static str,
}

/// A whole label set, owned by its series: one allocation for all texts.
#[derive(Debug)]
pub(crate) struct Labels {
    reporter: &'static str,
    mutual_tls: bool,
    flag: &'static str,
    /// End of each text within `texts`, in the order of [`LabelsRef::texts`].
    ends: [u32; TEXTS],
    texts: Box<str>,
    has_principal: [bool; 2],
}

/// Texts of a label set: seven and a principal of three parts for each end, and three for the service.
const TEXTS: usize = 2 * (7 + 3) + 3;

impl<'a> LabelsRef<'a> {
    /// An owned copy.
    pub(crate) fn to_owned(self) -> Labels {
        let mut texts = String::new();
        let ends = self.texts().map(|text| {
            texts.push_str(text);
            // Names of Kubernetes objects: at most 253 bytes each, so far below 4 GiB.
            u32::try_from(texts.len()).unwrap_or(u32::MAX)
        });
        Labels {
            reporter: self.reporter,
            mutual_tls: self.mutual_tls,
            flag: self.flag,
            ends,
            texts: texts.into_boxed_str(),
            has_principal: [self.source.principal.is_some(), self.destination.principal.is_some()],
        }
    }

    /// A label set of which only the reporter is known: where series go that found no room.
    pub(crate) fn overflow(reporter: &'static str, flag: &'static str) -> Self {
        Self {
            reporter,
            source: SideRef::default(),
            destination: SideRef::default(),
            service: ServiceRef::default(),
            mutual_tls: false,
            flag,
        }
    }

    fn texts(&self) -> [&'a str; TEXTS] {
        let end = |s: SideRef<'a>| {
            let (td, ns, sa) = s.principal.map_or(("", "", ""), |p| (p.trust_domain, p.namespace, p.service_account));
            [s.workload, s.namespace, s.app, s.version, s.cluster, s.region, s.zone, td, ns, sa]
        };
        let mut all = [""; TEXTS];
        all[..10].copy_from_slice(&end(self.source));
        all[10..20].copy_from_slice(&end(self.destination));
        all[20..].copy_from_slice(&[self.service.hostname, self.service.name, self.service.namespace]);
        all
    }
}

impl Labels {
    /// The borrowed form, for comparison and encoding.
    pub(crate) fn borrow(&self) -> LabelsRef<'_> {
        let text = |i: usize| {
            let begin = if i == 0 { 0 } else { self.ends[i - 1] as usize };
            self.texts.get(begin..self.ends[i] as usize).unwrap_or("")
        };
        let end = |base: usize, has_principal: bool| SideRef {
            workload: text(base),
            namespace: text(base + 1),
            app: text(base + 2),
            version: text(base + 3),
            cluster: text(base + 4),
            region: text(base + 5),
            zone: text(base + 6),
            principal: has_principal.then(|| PrincipalRef {
                trust_domain: text(base + 7),
                namespace: text(base + 8),
                service_account: text(base + 9),
            }),
        };
        LabelsRef {
            reporter: self.reporter,
            source: end(0, self.has_principal[0]),
            destination: end(10, self.has_principal[1]),
            service: ServiceRef { hostname: text(20), name: text(21), namespace: text(22) },
            mutual_tls: self.mutual_tls,
            flag: self.flag,
        }
    }
}

impl<'a> SideRef<'a> {
    pub(crate) fn with_principal(self, principal: Option<PrincipalRef<'a>>) -> Self {
        Self { principal, ..self }
    }

    pub(crate) fn from_workload(w: &'a Workload) -> Self {
        Self {
            workload: &w.workload_name,
            namespace: &w.namespace,
            app: &w.canonical_name,
            version: &w.canonical_revision,
            cluster: &w.cluster_id,
            region: &w.locality.region,
            zone: &w.locality.zone,
            principal: None,
        }
    }
}

impl<'a> From<&'a Side> for SideRef<'a> {
    fn from(s: &'a Side) -> Self {
        Self {
            workload: &s.workload,
            namespace: &s.namespace,
            app: &s.app,
            version: &s.version,
            cluster: &s.cluster,
            region: &s.region,
            zone: &s.zone,
            principal: None,
        }
    }
}

impl<'a> From<&'a Identity> for PrincipalRef<'a> {
    fn from(id: &'a Identity) -> Self {
        Self { trust_domain: id.trust_domain(), namespace: id.namespace(), service_account: id.service_account() }
    }
}

impl<'a> From<&'a Workload> for PrincipalRef<'a> {
    fn from(w: &'a Workload) -> Self {
        Self { trust_domain: &w.trust_domain, namespace: &w.namespace, service_account: &w.service_account }
    }
}

impl<'a> From<&'a Service> for ServiceRef<'a> {
    fn from(s: &'a Service) -> Self {
        Self { hostname: &s.hostname, name: &s.name, namespace: &s.namespace }
    }
}

impl fmt::Display for PrincipalRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let l = self.borrow();
        l.encode_ends(encoder)?;
        put(encoder, "request_protocol", "tcp")?;
        l.encode_end(encoder)?;
        for (key, value) in [
            ("source_region", l.source.region),
            ("source_zone", l.source.zone),
            ("destination_region", l.destination.region),
            ("destination_zone", l.destination.zone),
        ] {
            put(encoder, key, value)?;
        }
        Ok(())
    }
}

impl LabelsRef<'_> {
    /// Who reports, source, service and destination: what connections and requests have in common.
    pub(crate) fn encode_ends(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        put(encoder, "reporter", self.reporter)?;
        side(encoder, &SOURCE, &self.source)?;
        put(encoder, "destination_service", self.service.hostname)?;
        put(encoder, "destination_service_namespace", self.service.namespace)?;
        put(encoder, "destination_service_name", self.service.name)?;
        side(encoder, &DESTINATION, &self.destination)
    }

    /// How it ended, and how it was secured.
    pub(crate) fn encode_end(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        put(encoder, "response_flags", self.flag)?;
        put(encoder, "connection_security_policy", if self.mutual_tls { "mutual_tls" } else { UNKNOWN })
    }
}

/// Label names of one end, in the order of [`side`].
type Keys = [&'static str; 8];
const SOURCE: Keys = [
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
];
const DESTINATION: Keys = [
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
];

fn side(encoder: &mut LabelSetEncoder<'_>, keys: &Keys, s: &SideRef<'_>) -> fmt::Result {
    put(encoder, keys[0], s.workload)?;
    put(encoder, keys[1], s.app)?;
    put(encoder, keys[2], s.version)?;
    put(encoder, keys[3], s.namespace)?;
    match s.principal {
        Some(principal) => put_display(encoder, keys[4], &principal)?,
        None => put(encoder, keys[4], UNKNOWN)?,
    }
    put(encoder, keys[5], s.app)?;
    put(encoder, keys[6], s.version)?;
    put(encoder, keys[7], s.cluster)
}

/// Writes one label; an empty value becomes `unknown`.
pub(crate) fn put(encoder: &mut LabelSetEncoder<'_>, key: &str, value: &str) -> fmt::Result {
    (key, if value.is_empty() { UNKNOWN } else { value }).encode(encoder.encode_label())
}

fn put_display(encoder: &mut LabelSetEncoder<'_>, key: &str, value: &dyn fmt::Display) -> fmt::Result {
    let mut label = encoder.encode_label();
    let mut key_encoder = label.encode_label_key()?;
    key_encoder.write_str(key)?;
    let mut value_encoder = key_encoder.encode_label_value()?;
    write!(value_encoder, "{value}")?;
    value_encoder.finish()
}

/// Labels by name and text, for the families of closed sets in [`crate::metrics`] and [`crate::health`].
#[derive(Debug)]
pub(crate) struct Pairs<'a>(pub(crate) &'a [(&'a str, &'a str)]);

impl EncodeLabelSet for Pairs<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| put(encoder, key, value))
    }
}
