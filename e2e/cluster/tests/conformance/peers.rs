//! Other judges of what goes through a waypoint: gRPC's own interoperability client and server, h2spec, and a WebSocket.

use anyhow::{Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::json;

use super::case::HOME;
use super::suite::Suite;
use crate::common::{SOON, list};

const IMAGE: &str = "culvert.dev/peers:test";

/// Cases of gRPC's interoperability description that need no credentials of a cloud.
const INTEROP: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

/// Its port, and the Service's.
const PORT: u16 = 10000;

/// A server on one node, the client on the other, a GRPCRoute between them, without which no waypoint would be.
pub(crate) fn grpc(cluster: &Cluster, _: &Suite) -> Result<()> {
    let pod = |name: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": HOME, "labels": {"name": name}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": IMAGE,
                "args": [format!("--port={PORT}")],
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1}}]}})
    };
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "interop", "namespace": HOME},
        "spec": {"selector": {"name": "interop-server"}, "ports": [{"name": "grpc", "port": PORT, "appProtocol": "grpc"}]}});
    let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute",
        "metadata": {"name": "interop", "namespace": HOME},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "interop"}], "rules": [{
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-passed", "value": "yes"}]}}],
            "backendRefs": [{"name": "interop", "port": PORT}]}]}});
    // The client's pod runs a server too, since it has to run something.
    cluster.apply(&list(vec![pod("interop-server", "node2"), pod("interop-client", "node1"), service, route]))?;
    cluster.kubectl(&[
        "wait",
        "-n",
        HOME,
        "--for=condition=Ready",
        "--timeout=60s",
        "pod/interop-server",
        "pod/interop-client",
    ])?;
    let run = |case: &str| {
        let (host, port, case) =
            (format!("--server_host=interop.{HOME}"), format!("--server_port={PORT}"), format!("--test_case={case}"));
        cluster.kubectl(&["exec", "-n", HOME, "interop-client", "--", "client", &host, &port, &case])
    };
    eventually("the first call", SOON, || run("empty_unary"))?;
    let mut wrong = Vec::new();
    for case in INTEROP {
        wrong.extend(run(case).err().map(|error| format!("{case}: {error}")));
    }
    ensure!(wrong.is_empty(), "{} of {} cases failed:\n{}", wrong.len(), INTEROP.len(), wrong.join("\n"));
    println!("      {} cases", INTEROP.len());
    Ok(())
}

/// What h2spec finds wrong, and why that stays.
const EXCUSED: &[(&str, &str)] = &[(
    "Sends invalid connection preface",
    "the port speaks HTTP/1 too: what is no preface is refused as HTTP/1 (400) before the connection is closed",
)];

/// h2spec speaks HTTP/2 by prior knowledge to a Service's port; what answers is the waypoint.
pub(crate) fn h2spec(cluster: &Cluster, _: &Suite) -> Result<()> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "h2", "namespace": HOME},
        "spec": {"selector": {"name": "one"}, "ports": [{"name": "h2", "port": 80, "targetPort": 8080, "appProtocol": "kubernetes.io/h2c"}]}});
    let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "h2", "namespace": HOME},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "h2"}], "rules": [{
            "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-passed", "value": "yes"}]}}],
            "backendRefs": [{"name": "one", "port": 80}]}]}});
    cluster.apply(&list(vec![service, route]))?;
    let url = format!("http://h2.{HOME}/");
    let passes =
        || super::ask::sh(cluster, "routes/client", &format!("curl -sS -i -m 5 --http2-prior-knowledge {url}"));
    eventually("HTTP/2 passes the waypoint", SOON, || {
        let said = passes()?;
        ensure!(said.starts_with("HTTP/2 200") && said.contains("x-passed: yes"), "{said}");
        anyhow::Ok(())
    })?;
    let host = format!("h2.{HOME}");
    // It fails when one of its cases does; which, is in what it says.
    let mut command = cluster.kubectl_command();
    command.args(["exec", "-n", HOME, "interop-client", "--", "h2spec", "-h", &host, "-p", "80", "-o", "5"]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = said.lines().rev().find(|l| l.contains(" tests, ")).unwrap_or("no summary").to_owned();
    let failed: Vec<&str> = said.lines().map(str::trim).filter(|l| l.contains("× ")).collect();
    let bad: Vec<_> = failed.iter().filter(|l| !EXCUSED.iter().any(|(name, _)| l.contains(name))).collect();
    ensure!(summary.contains(" tests, ") && bad.is_empty(), "h2spec: {summary}\n{said}");
    println!("      {summary}");
    for (name, why) in EXCUSED.iter().filter(|(name, _)| failed.iter().any(|l| l.contains(name))) {
        println!("      excused  {name}: {why}");
    }
    Ok(())
}

/// A WebSocket is opened through a route, and carries a message both ways.
pub(crate) fn websocket(cluster: &Cluster, _: &Suite) -> Result<()> {
    let url = format!("ws://hygiene.{HOME}:80/");
    let exec = ["exec", "-n", HOME, "two", "--", "client", "--msg=through-a-waypoint", "--timeout=5s", &url];
    eventually("a WebSocket", SOON, || {
        let said = cluster.kubectl(&exec)?;
        ensure!(said.contains("through-a-waypoint") && said.contains("Hostname=one"), "{said}");
        anyhow::Ok(())
    })?;
    Ok(())
}
