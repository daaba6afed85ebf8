//! The cluster of the cases (README.md), as objects of Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Pods and labels of namespaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) pods: Vec<v1::Pod>,
}

/// What is read of a pod here.
pub(crate) struct Sketch<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) labels: &'a str,
    pub(crate) addresses: &'a [&'a str],
    pub(crate) ports: &'a [(&'a str, i32)],
    pub(crate) host: bool,
    pub(crate) ended: bool,
    /// It is being deleted.
    pub(crate) ending: bool,
    pub(crate) meshed: bool,
    /// Address of its node.
    pub(crate) node: &'a str,
}

impl<'a> Sketch<'a> {
    /// A pod of the mesh that runs.
    pub(crate) fn new(
        namespace: &'a str,
        name: &'a str,
        labels: &'a str,
        addresses: &'a [&'a str],
        ports: &'a [(&'a str, i32)],
    ) -> Self {
        let node = if namespace == "shop" { "192.168.0.10" } else { "192.168.0.11" };
        let (host, ended, ending, meshed) = (false, false, false, true);
        Self { namespace, name, labels, addresses, ports, host, ended, ending, meshed, node }
    }
}

/// `a=b c=d`.
pub(crate) fn pairs(text: &str) -> BTreeMap<String, String> {
    let pair = |p: &str| p.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap();
    text.split_whitespace().map(pair).collect()
}

pub(crate) fn pod(sketch: &Sketch<'_>) -> v1::Pod {
    let enrolled = ("ambient.istio.io/redirection".to_owned(), "enabled".to_owned());
    let port = |(name, number): &(&str, i32)| v1::ContainerPort {
        name: Some((*name).to_owned()),
        container_port: *number,
        ..v1::ContainerPort::default()
    };
    let container = v1::Container { ports: Some(sketch.ports.iter().map(port).collect()), ..v1::Container::default() };
    v1::Pod {
        metadata: ObjectMeta {
            name: Some(sketch.name.to_owned()),
            namespace: Some(sketch.namespace.to_owned()),
            labels: Some(pairs(sketch.labels)),
            annotations: sketch.meshed.then(|| [enrolled].into()),
            deletion_timestamp: sketch.ending.then(|| serde_json::from_value("2026-01-01T00:00:00Z".into()).unwrap()),
            ..ObjectMeta::default()
        },
        spec: Some(v1::PodSpec {
            host_network: sketch.host.then_some(true),
            containers: vec![container],
            ..v1::PodSpec::default()
        }),
        status: Some(v1::PodStatus {
            phase: Some(if sketch.ended { "Succeeded" } else { "Running" }.to_owned()),
            host_ip: Some(sketch.node.to_owned()),
            pod_ips: Some(sketch.addresses.iter().map(|ip| v1::PodIP { ip: (*ip).to_owned() }).collect()),
            ..v1::PodStatus::default()
        }),
    }
}

/// The cluster of README.md.
pub(crate) fn cluster() -> Cluster {
    let plain = Sketch::new;
    let namespace =
        |name: &str, labels: &str| (name.to_owned(), pairs(&format!("kubernetes.io/metadata.name={name} {labels}")));
    let sketches = [
        plain("shop", "web", "app=web tier=front", &["10.1.0.1", "fd00:1::1"], &[("http", 8080), ("admin", 9000)]),
        plain("shop", "api", "app=api tier=back", &["10.1.0.2"], &[("http", 80)]),
        plain("shop", "db", "app=db tier=back", &["10.1.0.3"], &[("sql", 5432)]),
        plain("ops", "prom", "app=prom", &["10.2.0.1"], &[("http", 9000)]),
        plain("ops", "job", "app=job", &["10.2.0.2"], &[]),
        plain("lab", "scan", "app=scan tier=back", &["10.3.0.1", "fd00:3::1"], &[("http", 8080)]),
        Sketch { host: true, meshed: false, ..plain("ops", "host", "app=prom", &["192.168.0.10"], &[]) },
        Sketch { ended: true, ..plain("shop", "done", "app=web tier=front", &["10.1.0.9"], &[("http", 8080)]) },
    ];
    Cluster {
        namespaces: [
            namespace("shop", "team=red"),
            namespace("ops", "team=blue"),
            namespace("lab", "team=blue stage=test"),
        ]
        .into(),
        pods: sketches.iter().map(pod).collect(),
    }
}

/// Addresses by name.
pub(crate) const ENDS: [(&str, &str); 12] = [
    ("web", "10.1.0.1"),
    ("web6", "fd00:1::1"),
    ("api", "10.1.0.2"),
    ("db", "10.1.0.3"),
    ("prom", "10.2.0.1"),
    ("job", "10.2.0.2"),
    ("scan", "10.3.0.1"),
    ("scan6", "fd00:3::1"),
    ("host", "192.168.0.10"),
    ("done", "10.1.0.9"),
    ("out", "203.0.113.7"),
    ("out6", "2001:db8::7"),
];

/// Ports that are tried.
pub(crate) const PORTS: [u16; 7] = [53, 80, 443, 5432, 8080, 9000, 15008];
