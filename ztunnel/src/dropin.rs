//! In the place of Istio's ztunnel: the same arguments, the same environment (`docs/drop-in.md`).
//!
//! This is the only reader of the environment, and it reads once. What comes out is the same [`Config`] that a file gives;
//! everything that is wrong is reported at once.

mod authorities;
mod environment;
mod hints;
mod proxy_config;
mod refused;
mod threads;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use document::Span;
use proxy::settings::{Log, LogFormat, OwnPod};
use telemetry::TracingConfig;

use crate::config::{Config, Dns, PodLimits, SameNode, UnknownPod};
pub(crate) use environment::Environment;
use environment::Reader;
use proxy_config::ProxyConfig;

/// Mark of our own sockets under Istio's capture: its iptables rules leave packets with it alone (drop-in.md).
const ISTIO_MARK: u32 = 1337;

/// Where Istio's agent hands pods over.
const ZDS_SOCKET: &str = "/var/run/ztunnel/ztunnel.sock";

/// Variables of which one is enough to tell that the program stands in for Istio's ztunnel.
const SIGNS: [&str; 8] = [
    "XDS_ADDRESS",
    "CA_ADDRESS",
    "LOCAL_XDS_PATH",
    "LOCAL_XDS",
    "PROXY_CONFIG",
    "PROXY_MODE",
    "INPOD_UDS",
    "ISTIO_META_CLUSTER_ID",
];

/// One variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Its name.
    pub(crate) variable: String,
    /// What is wrong.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.variable, self.what, self.remedy)
    }
}

/// Whether the environment is that of Istio's ztunnel.
pub(crate) fn is_meant(environment: &Environment) -> bool {
    SIGNS.iter().any(|name| environment.contains_key(*name))
}

/// The configuration that the environment means, on a machine with so many CPUs.
///
/// # Errors
/// Every variable that cannot be used.
pub(crate) fn from_env(environment: &Environment, cpus: usize) -> Result<Config, Vec<Mistake>> {
    let (proxy, mut wrong) = ProxyConfig::read(environment);
    let mut reader = Reader::new(environment, &proxy.proxy_metadata);
    refused::report(&mut reader);
    hints::check(&mut reader);
    let (local_file, local_text, xds) = authorities::world(&mut reader, &proxy);
    let ca = authorities::authority(&mut reader);
    let ipv6 = reader.flag("IPV6_ENABLED").unwrap_or(true);
    let any = |port| if ipv6 { (Ipv6Addr::UNSPECIFIED, port).into() } else { (Ipv4Addr::UNSPECIFIED, port).into() };
    let metrics: SocketAddr = any(proxy.stats_port.unwrap_or(15020));
    let config = Config {
        node: reader.text("NODE_NAME").unwrap_or_default(),
        local_file,
        local_text,
        xds,
        ca,
        own_pod: OwnPod {
            name: reader.text("POD_NAME").unwrap_or_default(),
            namespace: reader.text("POD_NAMESPACE").unwrap_or_default(),
            address: reader.parsed("INSTANCE_IP", "use the pod's address (status.podIP)", |text| text.parse().ok()),
        },
        zds_socket: reader.text("INPOD_UDS").unwrap_or_else(|| ZDS_SOCKET.to_owned()).into(),
        workers: Some(threads::read(&mut reader, proxy.concurrency, cpus)),
        network: reader.text("NETWORK").unwrap_or_default(),
        cluster: authorities::cluster(&reader),
        otel: otel(&mut reader),
        log: log(&mut reader),
        admin: (Ipv4Addr::LOCALHOST, proxy.proxy_admin_port.unwrap_or(15000)).into(),
        metrics,
        ready: any(15021),
        dns: dns(&mut reader),
        drain: drain(&mut reader, &proxy),
        crl_file: reader.text("CRL_PATH").map(PathBuf::from),
        packet_mark: Some(mark(&mut reader)),
        ipv6,
        // What Istio has no word for.
        otlp: None,
        pod_cidrs: Vec::new(),
        pod_cidrs_from_control: false,
        unknown_pod_destination: UnknownPod::default(),
        pod_limits: PodLimits::default(),
        same_node: SameNode::default(),
    };
    wrong.extend(reader.finish());
    if wrong.is_empty() { Ok(config) } else { Err(wrong) }
}

fn log(reader: &mut Reader<'_>) -> Log {
    let format = reader.parsed("LOG_FORMAT", "use json or plain", |text| match text {
        "json" => Some(LogFormat::Json),
        "plain" | "text" => Some(LogFormat::Text),
        _ => None,
    });
    Log {
        level: reader.text("RUST_LOG"),
        format: format.unwrap_or_default(),
        policy_info: reader.flag("AUTHZ_POLICY_INFO_LOGGING").unwrap_or(false),
    }
}

fn otel(reader: &mut Reader<'_>) -> Option<TracingConfig> {
    match TracingConfig::from_env(&|name| reader.text(name), "ztunnel") {
        Ok(config) => config,
        Err(error) => {
            reader.wrong("OTEL_*", error.to_string(), "see docs/drop-in.md, Traces");
            None
        }
    }
}

fn dns(reader: &mut Reader<'_>) -> Dns {
    // Istio's proxy looks for the flag in the node's metadata too. On by default, as there: Istio's node agent redirects look-ups
    // unless told otherwise and its chart says nothing to the proxy, and redirected they must end somewhere.
    let [own, metadata] = ["DNS_CAPTURE", "ISTIO_META_DNS_CAPTURE"].map(|name| reader.flag(name));
    let here = ["localhost:15053", "127.0.0.1:15053", "[::1]:15053"];
    reader.parsed("DNS_PROXY_ADDR", "leave it out: Istio's capture rules lead to localhost:15053", |text| {
        here.contains(&text).then_some(())
    });
    let standard = Dns::default();
    let mut made = Dns {
        enabled: own.or(metadata).unwrap_or(true),
        cluster_domain: reader.text("CLUSTER_DOMAIN").unwrap_or(standard.cluster_domain.clone()),
        preferred_service_namespace: reader.text("PREFERED_SERVICE_NAMESPACE"),
    };
    let checked = ::dns::Settings::new(&made.cluster_domain, made.preferred_service_namespace.as_deref());
    if let Err(error) = checked {
        let variable = match &error {
            ::dns::SettingsError::Domain(_) => "CLUSTER_DOMAIN",
            ::dns::SettingsError::Namespace(_) => "PREFERED_SERVICE_NAMESPACE",
        };
        reader.wrong(variable, error.to_string(), "use letters, digits and hyphens");
        made = standard;
    }
    made
}

fn mark(reader: &mut Reader<'_>) -> u32 {
    let parsed = reader.parsed(
        "PACKET_MARK",
        "use the number that the capture rules exempt, 1337 (0x539) for Istio's; 0 would have our own packets captured",
        |text| {
            let hex = text.strip_prefix("0x");
            let number = hex.map_or_else(|| text.parse().ok(), |digits| u32::from_str_radix(digits, 16).ok());
            number.filter(|mark| *mark != 0)
        },
    );
    parsed.unwrap_or(ISTIO_MARK)
}

fn drain(reader: &mut Reader<'_>, proxy: &ProxyConfig) -> Span {
    let own = reader.span("CONNECTION_TERMINATION_DEADLINE");
    let grace = reader.parsed("TERMINATION_GRACE_PERIOD_SECONDS", "use a number of seconds, such as 30", |text| {
        text.parse().ok().map(Duration::from_secs)
    });
    // hbone.md 11: the kubelet's own deadline says more than the mesh's default.
    let configured = own.or_else(|| proxy.termination_drain_duration.filter(|_| grace.is_none()));
    chassis::drain::deadline(configured, grace).into()
}
