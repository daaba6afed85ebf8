use serde_json::json;

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(variables: &[(&str, &str)]) -> Result<Config, Vec<Mistake>> {
    from_env(&environment(variables), 8)
}

/// What Istio's chart sets by itself.
const CHART: [(&str, &str); 14] = [
    ("CA_ADDRESS", "istiod.istio-system.svc:15012"),
    ("XDS_ADDRESS", "istiod.istio-system.svc:15012"),
    ("RUST_LOG", "info"),
    ("RUST_BACKTRACE", "1"),
    ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
    ("INPOD_ENABLED", "true"),
    ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
    ("POD_NAME", "ztunnel-x"),
    ("POD_NAMESPACE", "istio-system"),
    ("NODE_NAME", "n1"),
    ("INSTANCE_IP", "10.0.0.9"),
    ("SERVICE_ACCOUNT", "ztunnel"),
    ("ISTIO_META_ENABLE_HBONE", "true"),
    ("ZTUNNEL_CPU_LIMIT", "8"),
];

/// The configuration as JSON, the chart's variables and one more.
fn with(variable: &str, value: &str) -> serde_json::Value {
    let mut all = environment(&CHART);
    all.insert(variable.to_owned(), value.to_owned());
    let config = from_env(&all, 8).unwrap_or_else(|m| panic!("{variable}={value}: {m:?}"));
    serde_json::to_value(&config).unwrap()
}

#[test]
fn the_charts_environment_is_a_whole_configuration() {
    let config = read(&CHART).unwrap();
    let value = serde_json::to_value(&config).unwrap();
    for (place, wanted) in [
        ("/node", json!("n1")),
        ("/xds/address", json!("https://istiod.istio-system.svc:15012")),
        ("/xds/rootFile", json!("./var/run/secrets/istio/root-cert.pem")),
        ("/xds/tokenFile", json!("./var/run/secrets/tokens/istio-token")),
        ("/xds/metadata", json!({"CLUSTER_ID": "Kubernetes", "ENABLE_HBONE": "true"})),
        ("/ca/address", json!("https://istiod.istio-system.svc:15012")),
        ("/ca/certificateLifetime", json!("24h")),
        ("/ownPod", json!({"name": "ztunnel-x", "namespace": "istio-system", "address": "10.0.0.9"})),
        ("/zdsSocket", json!("/var/run/ztunnel/ztunnel.sock")),
        ("/cluster", json!("Kubernetes")),
        ("/network", json!("")),
        ("/packetMark", json!(1337)),
        ("/workers", json!(2)),
        ("/drain", json!("25s")),
        ("/admin", json!("127.0.0.1:15000")),
        ("/metrics", json!("[::]:15020")),
        ("/ready", json!("[::]:15021")),
        ("/ipv6", json!(true)),
        ("/log", json!({"level": "info", "format": "text", "policyInfo": false})),
        ("/crlFile", json!(null)),
        ("/dns/enabled", json!(true)),
    ] {
        assert_eq!(value.pointer(place), Some(&wanted), "{place} in {value:#}");
    }
    // It passes the checks of a file.
    document::parse::<Config>("chart", &value.to_string()).unwrap();
}

#[test]
fn each_variable_reaches_its_place() {
    for (variable, given, place, wanted) in [
        ("XDS_ADDRESS", "https://cp:1", "/xds/address", json!("https://cp:1")),
        ("CA_ADDRESS", "ca:1", "/ca/address", json!("https://ca:1")),
        ("XDS_ROOT_CA", "SYSTEM", "/xds/rootFile", json!("SYSTEM")),
        ("CA_ROOT_CA", "/r.pem", "/ca/rootFile", json!("/r.pem")),
        ("ALT_XDS_HOSTNAME", "a.test", "/xds/altName", json!("a.test")),
        ("ALT_CA_HOSTNAME", "b.test", "/ca/altName", json!("b.test")),
        ("AUTH_TOKEN", "/t", "/xds/tokenFile", json!("/t")),
        ("AUTH_TOKEN", "/t", "/ca/tokenFile", json!("/t")),
        ("XDS_HEADER_X-A", "secret", "/xds/headers", json!({"x-a": "(hidden)"})),
        ("CA_HEADER_X-B", "secret", "/ca/headers", json!({"x-b": "(hidden)"})),
        ("CLUSTER_ID", "c2", "/cluster", json!("c2")),
        ("ISTIO_META_CLUSTER_ID", "c3", "/cluster", json!("c3")),
        ("ISTIO_META_A", "b", "/xds/metadata/A", json!("b")),
        ("ISTIO_METAJSON_A", "{\"b\": [1]}", "/xds/metadata/A", json!({"b": [1]})),
        ("NETWORK", "net1", "/network", json!("net1")),
        ("NODE_NAME", "n2", "/node", json!("n2")),
        ("POD_NAME", "zt", "/ownPod/name", json!("zt")),
        ("POD_NAMESPACE", "ns", "/ownPod/namespace", json!("ns")),
        ("INSTANCE_IP", "::1", "/ownPod/address", json!("::1")),
        ("INPOD_UDS", "/s", "/zdsSocket", json!("/s")),
        ("PACKET_MARK", "0x539", "/packetMark", json!(1337)),
        ("PACKET_MARK", "7", "/packetMark", json!(7)),
        ("IPV6_ENABLED", "false", "/ipv6", json!(false)),
        ("IPV6_ENABLED", "false", "/metrics", json!("0.0.0.0:15020")),
        ("ZTUNNEL_WORKER_THREADS", "5", "/workers", json!(5)),
        ("ZTUNNEL_WORKER_THREADS", "50%", "/workers", json!(4)),
        ("ZTUNNEL_RESOURCE_CPU_REQUEST", "3", "/workers", json!(3)),
        ("SECRET_TTL", "1h30m", "/ca/certificateLifetime", json!("90m")),
        ("CONNECTION_TERMINATION_DEADLINE", "7s", "/drain", json!("7s")),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "8", "/drain", json!("7s")),
        ("LOG_FORMAT", "json", "/log/format", json!("json")),
        ("RUST_LOG", "debug", "/log/level", json!("debug")),
        ("AUTHZ_POLICY_INFO_LOGGING", "true", "/log/policyInfo", json!(true)),
        ("CRL_PATH", "/crl.pem", "/crlFile", json!("/crl.pem")),
        ("DNS_CAPTURE", "true", "/dns/enabled", json!(true)),
        ("DNS_CAPTURE", "false", "/dns/enabled", json!(false)),
        ("ISTIO_META_DNS_CAPTURE", "true", "/dns/enabled", json!(true)),
        ("ISTIO_META_DNS_CAPTURE", "false", "/dns/enabled", json!(false)),
        ("DNS_PROXY_ADDR", "localhost:15053", "/dns/enabled", json!(true)),
        ("CLUSTER_DOMAIN", "example.test", "/dns/clusterDomain", json!("example.test")),
        ("PREFERED_SERVICE_NAMESPACE", "first", "/dns/preferredServiceNamespace", json!("first")),
        ("PROXY_CONFIG", "statsPort: 1\nholdApplicationUntilProxyStarts: true", "/metrics", json!("[::]:1")),
        ("PROXY_CONFIG", "proxyAdminPort: 2", "/admin", json!("127.0.0.1:2")),
        ("PROXY_CONFIG", "concurrency: 3", "/workers", json!(3)),
        ("PROXY_CONFIG", "terminationDrainDuration: 3s", "/drain", json!("25s")),
        ("PROXY_CONFIG", "proxyMetadata: {NETWORK: low}", "/network", json!("low")),
        ("PROXY_CONFIG", "proxyMetadata: {NODE_NAME: low}", "/node", json!("n1")),
        ("PROXY_CONFIG", "discoveryAddress: low:1", "/xds/address", json!("https://istiod.istio-system.svc:15012")),
    ] {
        assert_eq!(with(variable, given).pointer(place), Some(&wanted), "{variable}={given}");
    }
}

#[test]
fn values_that_keep_what_we_do_are_taken() {
    for (variable, value) in [
        ("DNS_CAPTURE", "false"),
        ("ENABLE_ORIG_SRC", "true"),
        ("FAKE_CA", "false"),
        ("INPOD_PORT_REUSE", "true"),
        ("PROXY_MODE", "shared"),
        ("TLS12_ENABLED", "false"),
        ("XDS_ON_DEMAND", "false"),
        ("COMPLIANCE_POLICY", ""),
        ("KEEPALIVE_TIME", "60s"),
        ("HTTP2_FRAME_SIZE", "1048576"),
        ("LOG_FORMAT", "plain"),
    ] {
        with(variable, value);
    }
}

#[test]
fn a_local_world_needs_no_control_plane() {
    let ca = ("CA_ADDRESS", "ca:1");
    let of = |more: &[(&str, &str)]| read(&[&[ca], more].concat()).unwrap();
    let file = of(&[("LOCAL_XDS_PATH", "/w.yaml"), ("XDS_ADDRESS", "")]);
    assert_eq!((file.local_file, file.xds.is_none()), (Some("/w.yaml".into()), true));
    let text = of(&[("LOCAL_XDS", "workloads: []")]);
    assert_eq!((text.local_text.as_deref(), text.xds.is_none()), (Some("workloads: []"), true));
    let default = of(&[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]).xds.unwrap();
    assert_eq!(default.address, "https://istiod.istio-system.svc:15012");
    let low = of(&[("PROXY_CONFIG", "discoveryAddress: cp.test:7")]).xds.unwrap();
    assert_eq!(low.address, "https://cp.test:7");
    let drain = of(&[("LOCAL_XDS", "{}"), ("PROXY_CONFIG", "terminationDrainDuration: 9s")]).drain;
    assert_eq!(drain, Span::from_secs(9));
}

#[test]
fn traces_are_as_the_otel_variables_say() {
    let otel = |more: &[(&str, &str)]| read(&[&CHART[..], more].concat()).unwrap().otel;
    assert_eq!(otel(&[]), None);
    let made = otel(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), ("OTEL_SERVICE_NAME", "mine")]).unwrap();
    assert_eq!(made.endpoint, "http://c:4317");
    assert!(made.resource.contains(&("service.name".to_owned(), "mine".to_owned())));
}

/// A wrong value for everything that can be wrong.
const WRONG: [(&str, &str); 36] = [
    ("XDS_ADDRESS", "http://cp:1"),
    ("CA_ADDRESS", ""),
    ("XDS_ROOT_CA", "-----BEGIN CERTIFICATE-----"),
    ("CA_ROOT_CA", "-----BEGIN CERTIFICATE-----"),
    ("AUTH_TOKEN", "eyJh.eyJp.c2ln"),
    ("XDS_HEADER_A B", "x"),
    ("CA_HEADER_A", "\u{e4}"),
    ("ISTIO_METAJSON_A", "{"),
    ("INSTANCE_IP", "here"),
    ("PACKET_MARK", "0"),
    ("IPV6_ENABLED", "yes"),
    ("ZTUNNEL_WORKER_THREADS", "150%"),
    ("ZTUNNEL_CPU_LIMIT", "many"),
    ("ZTUNNEL_RESOURCE_CPU_LIMIT", "1.5"),
    ("ZTUNNEL_RESOURCE_CPU_REQUEST", "x"),
    ("SECRET_TTL", "24"),
    ("CONNECTION_TERMINATION_DEADLINE", "soon"),
    ("TERMINATION_GRACE_PERIOD_SECONDS", "30s"),
    ("LOG_FORMAT", "xml"),
    ("AUTHZ_POLICY_INFO_LOGGING", "1"),
    ("PROXY_CONFIG", "statsPort: many"),
    ("PROXY_MODE", "dedicated"),
    ("COMPLIANCE_POLICY", "pqc"),
    ("DNS_CAPTURE", "on"),
    ("ISTIO_META_DNS_CAPTURE", "1"),
    ("DNS_PROXY_ADDR", "0.0.0.0:53"),
    ("CLUSTER_DOMAIN", "cluster local"),
    ("ENABLE_ORIG_SRC", "false"),
    ("FAKE_CA", "true"),
    ("INPOD_ENABLED", "false"),
    ("INPOD_PORT_REUSE", "false"),
    ("TLS12_ENABLED", "true"),
    ("UNSTABLE_ENABLE_SOCKS5", "true"),
    ("XDS_ON_DEMAND", "true"),
    ("KEEPALIVE_RETRIES", "few"),
    ("POOL_UNUSED_RELEASE_TIMEOUT", "300"),
];

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let mistakes = read(&WRONG).unwrap_err();
    let mut told: Vec<&str> = mistakes.iter().map(|m| m.variable.as_str()).collect();
    told.sort_unstable();
    let mut wanted: Vec<&str> = WRONG.iter().map(|(name, _)| *name).collect();
    wanted.sort_unstable();
    assert_eq!(told, wanted);
    assert!(mistakes.iter().all(|m| !m.what.is_empty() && !m.remedy.is_empty()));
    let text = mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("run Culvert's `ca`"), "{text}");
    // What may be a credential is not repeated.
    assert!(!text.contains("eyJh") && !text.contains('\u{e4}'), "{text}");
    // One by one they are told as well.
    for (name, value) in WRONG {
        let mut all = environment(&CHART);
        all.insert(name.to_owned(), value.to_owned());
        let told = from_env(&all, 8).unwrap_err();
        assert_eq!(told.iter().map(|m| m.variable.as_str()).collect::<Vec<_>>(), [name], "{name}={value}");
    }
}

#[test]
fn two_worlds_or_none_are_wrong() {
    let names = |variables: &[(&str, &str)]| -> Vec<String> {
        read(variables).unwrap_err().into_iter().map(|m| m.variable).collect()
    };
    let ca = ("CA_ADDRESS", "ca:1");
    assert_eq!(names(&[ca]), ["XDS_ADDRESS"]);
    assert_eq!(names(&[ca, ("XDS_ADDRESS", ""), ("KUBERNETES_SERVICE_HOST", "x")]), ["XDS_ADDRESS"]);
    assert_eq!(names(&[ca, ("XDS_ADDRESS", "cp:1"), ("LOCAL_XDS", "{}")]), ["XDS_ADDRESS"]);
    assert_eq!(names(&[ca, ("LOCAL_XDS", "{}"), ("LOCAL_XDS_PATH", "/w")]), ["LOCAL_XDS"]);
    assert_eq!(names(&[("LOCAL_XDS", "{}")]), ["CA_ADDRESS"]);
    assert_eq!(
        names(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"), ("OTEL_TRACES_SAMPLER", "x"), ca, ("LOCAL_XDS", "{}")]),
        ["OTEL_*"]
    );
}

#[test]
fn the_page_names_every_variable() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/drop-in.md")).unwrap();
    let named = hints::HINTS.iter().map(|(name, ..)| *name).chain(refused::FLAGS.iter().map(|(name, ..)| *name));
    let fixed = ["LOCAL_XDS_PATH", "LOCAL_XDS", "RUST_LOG", "NETWORK", "PROXY_CONFIG", "CRL_PATH", "OTEL_"];
    // Each that can be wrong is read; header and metadata variables stand there by their prefix.
    let prefix =
        |name: &'static str| ["XDS_HEADER_", "CA_HEADER_", "ISTIO_METAJSON_"].into_iter().find(|p| name.starts_with(p));
    let wrong = WRONG.iter().map(|(name, _)| prefix(name).unwrap_or(name));
    let missing: Vec<_> = named.chain(fixed).chain(wrong).filter(|name| !page.contains(&format!("`{name}"))).collect();
    assert_eq!(missing, Vec::<&str>::new());
}
