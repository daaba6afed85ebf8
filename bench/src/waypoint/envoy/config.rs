//! The configuration: what istiod gives a waypoint for the same services and routes, written out, without Istio's own filters
//! (identity of callers for applications, telemetry), which the stock build does not have.
//!
//! ```text
//! 15008 mTLS, HTTP/2 CONNECT ends ─▶ "main": by address and port, HTTP, routes ─▶ "out": CONNECT to podIP:15008, mTLS
//!                        in-process stream                        in-process stream
//! ```

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::site::HTTP;
use crate::waypoint::place::{GRPC, PORT, Place, Proxy, Speech, TUNNELS};

/// Port of its admin server, on loopback.
const ADMIN: u16 = 15000;

/// Streams on one tunnel: what our own waypoint and ztunnel allow.
const STREAMS: u32 = 100;

/// What identities of the lab begin with.
const DOMAIN: &str = "spiffe://cluster.local/";

const CORE: &str = "type.googleapis.com/envoy.extensions";

/// The whole of it.
pub(super) fn bootstrap(place: &Place, folder: &Path, log: bool) -> Result<Value> {
    let at = place.pod(Proxy::Envoy.word())?;
    let mut chains = Vec::new();
    let mut clusters = vec![internal("main", "main"), originate(folder)];
    for speech in Speech::BOTH {
        chains.push(chain(speech, place.service(speech, Proxy::Envoy)?, log.then_some(folder)));
        clusters.push(backend(speech, place.pod(&format!("{}-server", speech.word()))?));
    }
    Ok(json!({
        "admin": {"address": address("127.0.0.1".parse()?, ADMIN)},
        "node": {"id": "envoy", "cluster": "envoy"},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {"@type": format!("{CORE}.bootstrap.internal_listener.v3.InternalListener")},
        }],
        "static_resources": {
            "listeners": [terminate(at, folder), listener("main", chains), out()],
            "clusters": clusters,
        },
    }))
}

fn address(ip: IpAddr, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

/// The side of mutual TLS that both directions have in common.
fn tls(folder: &Path) -> Value {
    let file = |name: &str| json!({"filename": folder.join(name)});
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [{"certificate_chain": file("cert-chain.pem"), "private_key": file("key.pem")}],
        "validation_context": {
            "trusted_ca": file("root-cert.pem"),
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"prefix": DOMAIN}},
            ],
        },
    })
}

/// Tunnels arrive.
fn terminate(at: IpAddr, folder: &Path) -> Value {
    let local = |key: &str, value: &str| {
        json!({
            "object_key": key, "shared_with_upstream": "ONCE",
            "format_string": {"text_format_source": {"inline_string": value}},
        })
    };
    json!({
        "name": "terminate",
        "address": address(at, TUNNELS),
        "filter_chains": [{
            "transport_socket": {
                "name": "tls",
                "typed_config": {
                    "@type": format!("{CORE}.transport_sockets.tls.v3.DownstreamTlsContext"),
                    "common_tls_context": tls(folder), "require_client_certificate": true,
                },
            },
            "filters": [manager(json!({
                "stat_prefix": "terminate",
                "http2_protocol_options": {"allow_connect": true, "max_concurrent_streams": STREAMS},
                "upgrade_configs": [{"upgrade_type": "CONNECT"}],
                "http_filters": [
                    {
                        "name": "authority",
                        "typed_config": {
                            "@type": format!("{CORE}.filters.http.set_filter_state.v3.Config"),
                            "on_request_headers": [
                                local("envoy.filters.listener.original_dst.local_ip", "%REQ(:AUTHORITY)%"),
                                local("envoy.filters.listener.original_dst.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%"),
                            ],
                        },
                    },
                    router(),
                ],
                "route_config": {"virtual_hosts": [{
                    "name": "connect", "domains": ["*"],
                    "routes": [{
                        "match": {"connect_matcher": {}},
                        "route": {
                            "cluster": "main", "timeout": "0s",
                            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                        },
                    }],
                }]},
            }))],
        }],
    })
}

/// An in-process listener that takes on the address that the tunnel names.
fn listener(name: &str, chains: Vec<Value>) -> Value {
    json!({
        "name": name,
        "internal_listener": {},
        "listener_filters": [{
            "name": "original_dst",
            "typed_config": {"@type": format!("{CORE}.filters.listener.original_dst.v3.OriginalDst")},
        }],
        "filter_chains": chains,
    })
}

fn manager(mut config: Value) -> Value {
    config["@type"] = format!("{CORE}.filters.network.http_connection_manager.v3.HttpConnectionManager").into();
    json!({"name": "http", "typed_config": config})
}

fn router() -> Value {
    json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{CORE}.filters.http.router.v3.Router"), "suppress_envoy_headers": true},
    })
}

/// Requests to one service.
fn chain(speech: Speech, service: IpAddr, log: Option<&Path>) -> Value {
    let codec = match speech {
        Speech::Http => "HTTP1",
        Speech::Grpc => "HTTP2",
    };
    // In Envoy's own form, which has some fields less than Istio's and ours.
    let logs: Vec<Value> = log
        .map(|folder| {
            json!({
                "name": "file",
                "typed_config": {
                    "@type": format!("{CORE}.access_loggers.file.v3.FileAccessLog"), "path": folder.join("access.log"),
                },
            })
        })
        .into_iter()
        .collect();
    json!({
        "filter_chain_match": {
            "prefix_ranges": [{"address_prefix": service, "prefix_len": 32}], "destination_port": PORT,
        },
        "filters": [manager(json!({
            "stat_prefix": speech.word(), "codec_type": codec, "access_log": logs,
            "http_filters": [router()],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes(speech)}]},
        }))],
    })
}

/// The rules of `place::route`.
fn routes(speech: Speech) -> Vec<Value> {
    let canary = || json!({"name": "x-canary", "string_match": {"exact": "yes"}});
    let method = json!({"name": ":method", "string_match": {"exact": "POST"}});
    let matches = match speech {
        Speech::Http => [
            json!({"path_separated_prefix": "/admin"}),
            json!({"path": "/login", "headers": [method]}),
            json!({"prefix": "/", "headers": [canary()]}),
            json!({"prefix": "/"}),
        ],
        Speech::Grpc => [
            json!({"prefix": "/bench.Admin/"}),
            json!({"path": "/bench.Login/Enter"}),
            json!({"prefix": "/", "headers": [canary()]}),
            json!({"prefix": "/bench.Echo/"}),
        ],
    };
    let rule = |m: Value| json!({"match": m, "route": {"cluster": speech.word(), "timeout": "0s"}});
    matches.map(rule).to_vec()
}

/// The endpoints of a service: each is an address on the listener that tunnels to it.
fn backend(speech: Speech, pod: IpAddr) -> Value {
    let port = match speech {
        Speech::Http => HTTP,
        Speech::Grpc => GRPC,
    };
    let to = format!("{pod}:{port}");
    let protocol = match speech {
        Speech::Http => json!({"http_protocol_options": {}}),
        Speech::Grpc => http2(),
    };
    json!({
        "name": speech.word(), "type": "STATIC",
        "typed_extension_protocol_options": protocol_options(&protocol),
        "load_assignment": {"cluster_name": speech.word(), "endpoints": [{"lb_endpoints": [{
            "endpoint": {"address": {"envoy_internal_address": {
                "server_listener_name": "out", "endpoint_id": to,
            }}},
            "metadata": {"filter_metadata": {"envoy.filters.listener.original_dst": {"local": to}}},
        }]}]},
        "transport_socket": passing(json!([{"kind": {"host": {}}, "name": "envoy.filters.listener.original_dst"}])),
    })
}

fn http2() -> Value {
    json!({"http2_protocol_options": {"max_concurrent_streams": STREAMS}})
}

fn protocol_options(explicit: &Value) -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": explicit,
    }})
}

/// An in-process stream, with what is to be handed on by it.
fn passing(metadata: Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.internal_upstream",
        "typed_config": {
            "@type": format!("{CORE}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport"),
            "passthrough_metadata": metadata,
            "transport_socket": {
                "name": "raw",
                "typed_config": {"@type": format!("{CORE}.transport_sockets.raw_buffer.v3.RawBuffer")},
            },
        },
    })
}

/// A cluster that is an in-process listener.
fn internal(name: &str, listener: &str) -> Value {
    json!({
        "name": name, "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": listener}}}},
        ]}]},
        "transport_socket": passing(json!([])),
    })
}

/// Streams become CONNECTs.
fn out() -> Value {
    let tunnel = json!({
        "name": "tunnel",
        "typed_config": {
            "@type": format!("{CORE}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "out", "cluster": "originate",
            "tunneling_config": {"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"},
        },
    });
    listener("out", vec![json!({"filters": [tunnel]})])
}

/// Tunnels to workloads: to port 15008 of the address that is asked for.
fn originate(folder: &Path) -> Value {
    json!({
        "name": "originate", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"upstream_port_override": TUNNELS},
        "typed_extension_protocol_options": protocol_options(&http2()),
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": format!("{CORE}.transport_sockets.tls.v3.UpstreamTlsContext"),
                "common_tls_context": tls(folder),
            },
        },
    })
}
