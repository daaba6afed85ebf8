//! Control plane and certificate authority: where they are, whom to trust, what to show them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use proxy::settings::{Authority, ControlPlane};
use serde_json::Value;

use super::environment::Reader;
use super::proxy_config::ProxyConfig;

/// Istio's own control plane, which is also its CA.
const ISTIOD: &str = "https://istiod.istio-system.svc:15012";
/// The chart mounts the root here; the working directory is `/`.
const ROOT_FILE: &str = "./var/run/secrets/istio/root-cert.pem";
/// And the token here.
const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";
/// Istio's `SECRET_TTL`.
const SECRET_TTL: Duration = Duration::from_secs(24 * 3600);

/// Where workloads and policies come from.
pub(super) fn world(
    reader: &mut Reader<'_>,
    proxy: &ProxyConfig,
) -> (Option<PathBuf>, Option<String>, Option<ControlPlane>) {
    let (file, text) = (reader.text("LOCAL_XDS_PATH").map(PathBuf::from), reader.text("LOCAL_XDS"));
    if file.is_some() && text.is_some() {
        reader.wrong("LOCAL_XDS", "LOCAL_XDS_PATH is given too", "keep one of them");
    }
    let local = file.is_some() || text.is_some();
    let named = reader.text("XDS_ADDRESS");
    if local {
        if named.is_some() {
            let remedy = "make it empty, or leave LOCAL_XDS_PATH and LOCAL_XDS out";
            reader.wrong("XDS_ADDRESS", "a local world is given too, and only one of them can be followed", remedy);
        }
        return (file, text, None);
    }
    let off = reader.given("XDS_ADDRESS") == Some("");
    let default = || proxy.discovery_address.clone().or_else(|| istiod(reader));
    let Some(address) = named.or_else(|| if off { None } else { default() }) else {
        let remedy = "name the control plane, such as istiod.istio-system.svc:15012, or a file in LOCAL_XDS_PATH";
        reader.wrong("XDS_ADDRESS", "nothing says where workloads and policies come from", remedy);
        return (None, None, None);
    };
    let plane = ControlPlane {
        address: https(reader, "XDS_ADDRESS", &address),
        root_file: root(reader, "XDS_ROOT_CA"),
        token_file: token(reader, false),
        alt_name: reader.text("ALT_XDS_HOSTNAME"),
        headers: headers(reader, "XDS_HEADER_"),
        metadata: metadata(reader, proxy),
    };
    (None, None, Some(plane))
}

/// Who signs certificates.
pub(super) fn authority(reader: &mut Reader<'_>) -> Authority {
    let off = reader.given("CA_ADDRESS") == Some("");
    let named = reader.text("CA_ADDRESS").or_else(|| if off { None } else { istiod(reader) });
    if named.is_none() {
        let remedy = "name a CA, such as istiod.istio-system.svc:15012 or Culvert's `ca`";
        reader.wrong("CA_ADDRESS", "nothing says who signs certificates", remedy);
    }
    let address = named.map(|address| https(reader, "CA_ADDRESS", &address)).unwrap_or_default();
    Authority {
        address,
        root_file: root(reader, "CA_ROOT_CA"),
        token_file: token(reader, true),
        alt_name: reader.text("ALT_CA_HOSTNAME"),
        headers: headers(reader, "CA_HEADER_"),
        certificate_lifetime: reader.span("SECRET_TTL").unwrap_or(SECRET_TTL).into(),
    }
}

/// The cluster.
pub(super) fn cluster(reader: &Reader<'_>) -> String {
    let named = reader.text("CLUSTER_ID").or_else(|| reader.text("ISTIO_META_CLUSTER_ID"));
    named.unwrap_or_else(|| mesh::workload::DEFAULT_CLUSTER.to_owned())
}

/// The default, where there is a cluster to have it.
fn istiod(reader: &Reader<'_>) -> Option<String> {
    reader.text("KUBERNETES_SERVICE_HOST").map(|_| ISTIOD.to_owned())
}

/// An address without a scheme means https.
fn https(reader: &mut Reader<'_>, name: &str, address: &str) -> String {
    match address.split_once("://") {
        None => format!("https://{address}"),
        Some(("https", _)) => address.to_owned(),
        Some(_) => {
            let what =
                format!("{address:?} is not an https:// address, and tokens and certificates are never sent in clear");
            reader.wrong(name, what, "use https://host:port or host:port");
            String::new()
        }
    }
}

fn root(reader: &mut Reader<'_>, name: &str) -> PathBuf {
    let file = reader.text(name).unwrap_or_else(|| ROOT_FILE.to_owned());
    if file.starts_with("-----BEGIN") {
        reader.wrong(name, "holds a certificate itself", "put it into a file and name that, or use SYSTEM");
    }
    file.into()
}

/// Both streams show the same token; `tell` has one of them report what is wrong with it.
fn token(reader: &mut Reader<'_>, tell: bool) -> PathBuf {
    let file = reader.text("AUTH_TOKEN").unwrap_or_else(|| TOKEN_FILE.to_owned());
    // The alphabet of a JSON web token (RFC 7515: base64url and dots) has no slash. What it is stays unsaid.
    if tell && !file.contains('/') {
        let remedy =
            "put the token into a file and give its path, with a slash: tokens expire, and a file can be renewed";
        reader.wrong("AUTH_TOKEN", "is not the path of a file", remedy);
    }
    file.into()
}

fn headers(reader: &mut Reader<'_>, prefix: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in reader.with_prefix(prefix) {
        let good_name = name.to_ascii_lowercase().parse::<http::HeaderName>().is_ok();
        // gRPC metadata is visible ASCII; a value may be a credential and is not shown.
        if good_name && value.bytes().all(|b| matches!(b, b' '..=b'~')) {
            all.insert(name.to_ascii_lowercase(), value.to_owned());
        } else {
            reader.wrong(
                &format!("{prefix}{name}"),
                "cannot be sent as a header",
                "use a header's name and plain ASCII",
            );
        }
    }
    all
}

/// Node metadata (discovery.md 1).
fn metadata(reader: &mut Reader<'_>, proxy: &ProxyConfig) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (name, value) in &proxy.proxy_metadata {
        all.insert(name.clone(), Value::from(value.as_str()));
    }
    for (name, value) in reader.with_prefix("ISTIO_META_") {
        all.insert(name.to_owned(), Value::from(value));
    }
    for (name, value) in reader.with_prefix("ISTIO_METAJSON_") {
        match serde_json::from_str(value) {
            Ok(json) => drop(all.insert(name.to_owned(), json)),
            Err(error) => reader.wrong(&format!("ISTIO_METAJSON_{name}"), format!("not JSON: {error}"), "write JSON"),
        }
    }
    all
}
