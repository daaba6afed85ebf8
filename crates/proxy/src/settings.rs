//! Sections of configuration that every program of the data plane has.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use document::{Report, Span};
use identity::channel::TrustedRoots;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// The pod that the proxy runs in. The control plane compares the namespace with that of our token (discovery.md 1).
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OwnPod {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Its address.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

/// The control plane's address and how to trust it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ControlPlane {
    /// `https://host:port`.
    pub address: String,
    /// PEM file with the roots of its certificate, re-read when it changes; `SYSTEM` means the machine's bundle.
    pub root_file: PathBuf,
    /// File with our bearer token; read for every stream.
    pub token_file: PathBuf,
    /// Name to check in its certificate in place of the address's.
    #[serde(default)]
    pub alt_name: Option<String>,
    /// Further headers of the stream.
    #[serde(default, serialize_with = "names_only")]
    pub headers: BTreeMap<String, String>,
    /// Further node metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, serde_json::Value>,
}

/// The certificate authority's address and how to trust it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Authority {
    /// `https://host:port`.
    pub address: String,
    /// PEM file with the roots of its certificate, re-read when it changes; `SYSTEM` means the machine's bundle.
    pub root_file: PathBuf,
    /// File with our bearer token; read for every request.
    pub token_file: PathBuf,
    /// Name to check in its certificate in place of the address's.
    #[serde(default)]
    pub alt_name: Option<String>,
    /// Further headers of each request.
    #[serde(default, serialize_with = "names_only")]
    pub headers: BTreeMap<String, String>,
    /// Life of a certificate to ask for.
    #[serde(default = "certificate_lifetime")]
    pub certificate_lifetime: Span,
}

/// Where spans go, and records of the access log if they are to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Otlp {
    /// `http://host:4317` (gRPC).
    pub endpoint: String,
    /// Share of connections that are traced, 0 to 1.
    #[serde(default = "sampling")]
    pub sampling: f64,
    /// Send records of the access log too. They are written all the same.
    #[serde(default)]
    pub access_log: bool,
}

/// Messages.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Log {
    /// Level, or levels by module: `info,hbone=debug`.
    #[serde(default)]
    pub level: Option<String>,
    /// Form of the lines.
    #[serde(default)]
    pub format: LogFormat,
    /// Write policy decisions at INFO in place of DEBUG.
    #[serde(default)]
    pub policy_info: bool,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Tab-separated text.
    #[default]
    Text,
}

impl ControlPlane {
    /// Whom to trust.
    pub fn roots(&self) -> TrustedRoots {
        roots(&self.root_file)
    }
}

impl Authority {
    /// Whom to trust.
    pub fn roots(&self) -> TrustedRoots {
        roots(&self.root_file)
    }
}

/// Whom to trust, as `rootFile` says.
fn roots(root_file: &Path) -> TrustedRoots {
    // The spelling of Istio's XDS_ROOT_CA and CA_ROOT_CA (drop-in.md).
    if root_file.as_os_str() == "SYSTEM" { TrustedRoots::System } else { TrustedRoots::File(root_file.to_owned()) }
}

/// A header may be a credential, and the configuration is shown by `/config_dump`.
fn names_only<S: Serializer>(headers: &BTreeMap<String, String>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(headers.keys().map(|name| (name, "(hidden)")))
}

/// What may be wrong with the sections, for the program's own check of its document.
pub fn check(report: &mut Report, admin: SocketAddr, ca: &Authority, xds: Option<&ControlPlane>, otlp: Option<&Otlp>) {
    if !admin.ip().is_loopback() {
        let what = format!("{admin} can be reached from other hosts, and the admin server can stop the proxy");
        report.at("/admin").mistake(&what, "use 127.0.0.1:15000 or [::1]:15000");
    }
    for (path, address) in [("/ca/address", Some(&ca.address)), ("/xds/address", xds.map(|x| &x.address))] {
        if address.is_some_and(|a| !a.starts_with("https://")) {
            report.at(path).mistake(
                "not an https:// address",
                "tokens and certificates are never sent in clear; use https://host:port",
            );
        }
    }
    if let Some(sampling) = otlp.map(|o| o.sampling)
        && !(0.0..=1.0).contains(&sampling)
    {
        report.at("/otlp/sampling").mistake(format!("{sampling} is not a share"), "use a number from 0 to 1");
    }
}

/// That the world comes from exactly one of the places that may be named.
pub fn check_source(report: &mut Report, local_file: bool, local_text: bool, xds: bool) {
    match [local_file, local_text, xds].into_iter().filter(|given| *given).count() {
        0 => report.at("").mistake(
            "neither `localFile` nor `localText` nor `xds` is given",
            "name where workloads and policies come from",
        ),
        1 => {}
        _ => report.at("").mistake("more than one of `localFile`, `localText` and `xds` is given", "keep one of them"),
    }
}

// Istio's SECRET_TTL (ca.md 3).
fn certificate_lifetime() -> Span {
    Span::from(std::time::Duration::from_secs(24 * 3600))
}

// Istio's PILOT_TRACE_SAMPLING (telemetry.md 4).
fn sampling() -> f64 {
    0.01
}
