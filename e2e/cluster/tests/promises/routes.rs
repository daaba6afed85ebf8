//! Routes that are no policy: whom they leave alone, streams by TCPRoute and TLSRoute, TLS to one port, and an external check.

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::shots::{status, until_status};
use super::vault::{self, PORT, until_says};
use crate::common::{SOON, list};
use crate::mesh::shop;

/// Port of TLS of the pods of this file.
const SECURE: u16 = 8443;

fn route(kind: &str, name: &str, service: &str, port: u16, rest: Value) -> Value {
    let mut spec = json!({"parentRefs": [{"group": "", "kind": "Service", "name": service, "port": port}]});
    if let (Some(spec), Value::Object(rest)) = (spec.as_object_mut(), rest) {
        spec.extend(rest);
    }
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"},
           "spec": spec})
}

/// Until a route says of its parent that all is well, also that its waypoint is there.
fn until_followed(cluster: &Cluster, kind: &str, name: &str) -> Result<()> {
    eventually(&format!("{kind} {name} is accepted"), SOON, || {
        let route = vault::get(cluster, &[kind, name])?;
        let said = json!({"status": {"conditions": route["status"]["parents"][0]["conditions"]}});
        for condition in ["Accepted", "ResolvedRefs", "ResolvedWaypoints"] {
            let (status, reason, message) = vault::condition(&said, condition);
            ensure!(status == "True", "{condition} {status} {reason}: {message}");
        }
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Requests that the waypoint's pods have counted.
fn counted(cluster: &Cluster) -> Result<usize> {
    Ok(metrics(cluster)?.iter().filter(|l| l.starts_with("istio_requests_total{")).count())
}

/// A bound Service with nothing of L7 does not pass its waypoint: its counter stays as it is, and the line of the proxy at the
/// other end names the client itself as the one who opened the tunnel.
pub(crate) fn unused(cluster: &Cluster) -> Result<()> {
    cluster.apply(&list(vec![vault::options("spec: {}\n"), vault::gateway()]))?;
    vault::until_programmed(cluster)?;
    until_says(cluster, &["service", "server-one"], "istio.io/WaypointBound", "True WaypointAccepted", "unused")?;
    for _ in 0..20 {
        let said = status(cluster, "client-two", &format!("http://server-one.shop:{PORT}/unused"))?;
        ensure!(said == "200", "{said}");
    }
    let passed = counted(cluster)?;
    ensure!(passed == 0, "the waypoint has counted {passed} kinds of requests");
    eventually("the other end's proxy has written its lines", SOON, || {
        let log = shop::proxy_log(cluster, "node1")?;
        let inbound = |l: &&str| l.contains("direction=\"inbound\"") && l.contains("dst.workload=\"server-one\"");
        let lines: Vec<&str> =
            log.lines().filter(inbound).filter(|l| l.contains("src.workload=\"client-two\"")).collect();
        ensure!(lines.len() >= 20, "{} of 20 lines", lines.len());
        let identity = "src.identity=\"spiffe://cluster.local/ns/shop/sa/client-two\"";
        ensure!(lines.iter().all(|l| l.contains(identity)), "{lines:?}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Who calls a pod of a Service that has a route is not turned away, and does not pass the waypoint (the conformance suite
/// does so too).
pub(crate) fn mere(cluster: &Cluster) -> Result<()> {
    let deny = json!([{"matches": [{"path": {"value": "/routed"}}], "filters": [
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-routed", "value": "yes"}]}}],
        "backendRefs": [{"name": "server-one", "port": PORT}]}]);
    let served = route("HTTPRoute", "mere", "server-one", PORT, json!({"rules": deny}));
    cluster.apply(&served.to_string())?;
    until_followed(cluster, "httproute", "mere")?;
    let by_service = format!("http://server-one.shop:{PORT}");
    // Through the waypoint what no rule matches is 404.
    until_status(cluster, "client-one", &format!("{by_service}/other"), "404")?;
    until_status(cluster, "client-two", &format!("{by_service}/routed"), "200")?;
    let ip = shop::pod_ip(cluster, "server-one")?;
    for from in ["client-one", "client-two", "outside/outside"] {
        for to in [format!("http://{ip}:{PORT}/other"), format!("http://server-one-headless.shop:{PORT}/other")] {
            for _ in 0..20 {
                let said = status(cluster, from, &to)?;
                ensure!(said == "200", "{from} gets {said} from {to}");
            }
        }
    }
    let said = status(cluster, "outside/outside", &format!("{by_service}/other"))?;
    ensure!(said == "200", "who is outside of the mesh gets {said} by the Service's address");
    cluster.delete(&served.to_string())?;
    until_status(cluster, "client-one", &format!("{by_service}/other"), "200")
}

/// Pods with nginx on 8080 in clear and on 8443 with TLS, which say their name and the server name that was asked for.
fn secured(cluster: &Cluster) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["back.example".to_owned()])?;
    let server = |listen: &str, more: &str| {
        format!(
            "server {{ listen {listen}; listen [::]:{listen}; {more} location / {{ return 200 \"$hostname $ssl_server_name\\n\"; }} }}\n"
        )
    };
    let certificate = "ssl_certificate /etc/files/tls.crt; ssl_certificate_key /etc/files/tls.key;";
    let conf = format!(
        "user root; error_log stderr; pid /tmp/nginx.pid; events {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; \
         scgi_temp_path /tmp/e;\n{}{}}}\n",
        server(&PORT.to_string(), ""),
        server(&format!("{SECURE} ssl"), certificate)
    );
    let pem = made.cert.pem();
    let map = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"}, "data": data});
    let files = json!({"nginx.conf": conf, "tls.crt": pem, "tls.key": made.signing_key.serialize_pem()});
    let mut items = vec![map("files", files), map("roots", json!({"ca.crt": pem}))];
    for (name, node) in [("secure-one", "node1"), ("secure-two", "node2")] {
        let command = ["nginx", "-c", "/etc/files/nginx.conf", "-g", "daemon off;"];
        let mount = json!({"volumeMounts": [{"name": "files", "mountPath": "/etc/files"}]});
        let mut pod = shop::pod(name, node, &command, mount);
        pod["spec"]["volumes"] = json!([{"name": "files", "configMap": {"name": "files"}}]);
        items.push(pod);
        let ports = json!([{"name": "http", "port": PORT}, {"name": "tls", "port": SECURE}]);
        items.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
                          "spec": {"selector": {"app": name}, "ports": ports}}));
    }
    cluster.apply(&list(items))?;
    shop::until_ready(cluster, &["secure-one", "secure-two"])
}

/// Connections are led by what carries them.
pub(crate) fn streams(cluster: &Cluster) -> Result<()> {
    secured(cluster)?;
    let load = shop::PORT;
    let backend = |name: &str, port: u16| json!([{"name": name, "port": port}]);
    let routes = [
        route("TCPRoute", "tcp", "server-one", load, json!({"rules": [{"backendRefs": backend("server-two", load)}]})),
        route(
            "TLSRoute",
            "tls-a",
            "secure-one",
            SECURE,
            json!({"hostnames": ["a.example"], "rules": [{"backendRefs": backend("secure-one", SECURE)}]}),
        ),
        route(
            "TLSRoute",
            "tls-b",
            "secure-one",
            SECURE,
            json!({"hostnames": ["*.b.example"], "rules": [{"backendRefs": backend("secure-two", SECURE)}]}),
        ),
    ];
    let all = list(routes.to_vec());
    cluster.apply(&all)?;
    for (kind, name) in [("tcproute", "tcp"), ("tlsroute", "tls-a"), ("tlsroute", "tls-b")] {
        until_followed(cluster, kind, name)?;
    }
    eventually("a TCPRoute leads to the other server", SOON, || {
        let line = format!("printf hello | nc -w 5 server-one.shop {load}");
        let said = shop::in_pod(cluster, "client-one", &line)?;
        ensure!(said.contains("server-two"), "{said:?}");
        anyhow::Ok(())
    })?;
    let vip = cluster.kubectl(&["get", "service", "-n", "shop", "secure-one", "-o", "jsonpath={.spec.clusterIP}"])?;
    let ask = |name: &str| {
        let line = format!("curl -sk -m 8 --resolve {name}:{SECURE}:{vip} https://{name}:{SECURE}/ || echo none");
        shop::in_pod(cluster, "client-one", &line)
    };
    for (name, wanted) in
        [("a.example", "secure-one a.example"), ("x.b.example", "secure-two x.b.example"), ("c.example", "none")]
    {
        eventually(&format!("a TLSRoute leads {name} to {wanted}"), SOON, || {
            let said = ask(name)?;
            ensure!(said == wanted, "{said:?}");
            anyhow::Ok(())
        })?;
    }
    cluster.delete(&all)?;
    Ok(())
}

/// A BackendTLSPolicy for a port.
pub(crate) fn one_port(cluster: &Cluster) -> Result<()> {
    let double = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "double", "namespace": "shop"},
        "spec": {"selector": {"app": "secure-one"}, "ports": [
            {"name": "http", "port": PORT}, {"name": "http-secure", "port": SECURE}]}});
    let policy = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "double", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "double", "sectionName": "http-secure"}],
                 "validation": {"hostname": "back.example",
                                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "roots"}]}}});
    cluster.apply(&list(vec![double, policy.clone()]))?;
    for (port, wanted) in [(SECURE, "secure-one back.example"), (PORT, "secure-one")] {
        eventually(&format!("port {port}"), SOON, || {
            let said = shop::curl(cluster, "client-one", &format!("http://double.shop:{port}/"))?;
            ensure!(said.trim() == wanted, "{said:?}");
            anyhow::Ok(())
        })?;
    }
    let said = vault::get(cluster, &["backendtlspolicy", "double"])?;
    let ancestor = json!({"status": {"conditions": said["status"]["ancestors"][0]["conditions"]}});
    ensure!(vault::condition(&ancestor, "Accepted").0 == "True", "{said}");
    cluster.delete(&policy.to_string())?;
    // In clear the port answers what nginx says to it.
    until_status(cluster, "client-one", &format!("http://double.shop:{SECURE}/"), "400")
}

/// A filter of a route asks somebody about each request.
pub(crate) fn external(cluster: &Cluster) -> Result<()> {
    let conf = "sed 's#return 200 .*;#return 200; } location /no { return 401 no;#' /etc/nginx/nginx.conf > /tmp/nginx.conf; \
                exec nginx -c /tmp/nginx.conf -g 'daemon off;'";
    let judge = shop::pod("judge", "node2", &["sh", "-c", conf], json!({}));
    cluster.apply(&list(vec![judge, vault::service("judge", "judge", false)]))?;
    shop::until_ready(cluster, &["judge"])?;
    let filter = json!({"type": "ExternalAuth", "externalAuth": {"protocol": "HTTP", "backendRef": {"name": "judge", "port": PORT}}});
    let rules = json!([{"filters": [filter], "backendRefs": [{"name": "server-two", "port": PORT}]}]);
    let asking = route("HTTPRoute", "asking", "server-two", PORT, json!({"rules": rules}));
    cluster.apply(&asking.to_string())?;
    until_followed(cluster, "httproute", "asking")?;
    let to = |path: &str| format!("http://server-two.shop:{PORT}{path}");
    until_status(cluster, "client-one", &to("/no"), "401")?;
    until_status(cluster, "client-one", &to("/yes"), "200")?;
    // Nobody who could tell: nobody passes.
    cluster.kubectl(&["delete", "pod", "-n", "shop", "judge"])?;
    until_status(cluster, "client-one", &to("/yes"), "403")?;
    let asked = checks(cluster)?;
    ensure!(asked.contains("result=\"refused\"") && asked.contains("result=\"failed\""), "{asked}");
    cluster.delete(&asking.to_string())?;
    until_says(cluster, &["service", "server-two"], "istio.io/WaypointBound", "True WaypointAccepted", "unused")?;
    until_status(cluster, "client-one", &to("/yes"), "200")
}

/// What the waypoint's pods count of external checks.
fn checks(cluster: &Cluster) -> Result<String> {
    let lines = metrics(cluster)?;
    let of_calls = lines.iter().filter(|l| l.starts_with("culvert_external_calls_total{"));
    Ok(of_calls.map(|l| format!("{l}\n")).collect())
}

/// Metrics of the waypoint's pods.
fn metrics(cluster: &Cluster) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for pod in vault::waypoint_pods(cluster)? {
        let ip = pod["status"]["podIP"].as_str().context("no address")?;
        let page = shop::in_pod(cluster, "outside/outside", &format!("curl -sS -m 8 http://{ip}:15020/metrics"))?;
        all.extend(page.lines().map(str::to_owned));
    }
    Ok(all)
}
