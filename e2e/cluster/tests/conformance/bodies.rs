//! Bodies stream: a large one is never gathered, and a slow one arrives as it is sent.

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::ask::sh;
use super::case::HOME;
use super::suite::Suite;
use super::world::{NAME, NAMESPACE};
use crate::common::{SOON, list};

/// A web server in shell: reads the body that it is promised and says how long it was, or says one word a second.
const SERVER: &str = r#"cat >/tmp/answer <<'END'
#!/bin/sh
read -r method path version
while read -r line; do
    line=${line%?}
    [ -n "$line" ] || break
    case $line in [Cc]ontent-[Ll]ength:*) length=${line#*: };; esac
done
case $path in
/slow*)
    printf 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n'
    for word in one two three four five six seven eight nine ten; do echo $word; sleep 1; done ;;
*)
    got=$(head -c "${length:-0}" | wc -c)
    printf 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s' "${#got}" "$got" ;;
esac
END
chmod +x /tmp/answer
exec nc -ll -p 8080 -e /tmp/answer"#;

const BYTES: u64 = 1 << 30;
/// What a waypoint may grow by: windows of HTTP/2 of two connections and some buffers, and nothing that grows with the body.
const GROWTH: u64 = 96 << 20;

/// One gibibyte up, and ten words down in ten seconds.
pub(crate) fn run(cluster: &Cluster, _: &Suite) -> Result<()> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sink", "namespace": HOME, "labels": {"name": "sink"}},
        "spec": {"nodeName": "node2", "terminationGracePeriodSeconds": 0, "containers": [{"name": "main",
            "image": "culvert.dev/echo:test", "command": ["sh", "-c", SERVER], "securityContext": {"runAsUser": 0}}]}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sink", "namespace": HOME},
        "spec": {"selector": {"name": "sink"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "sink", "namespace": HOME},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "sink"}], "rules": [{
            "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-passed", "value": "yes"}]}}],
            "backendRefs": [{"name": "sink", "port": 80}]}]}});
    cluster.apply(&list(vec![pod, service, route]))?;
    cluster.kubectl(&["wait", "-n", HOME, "--for=condition=Ready", "--timeout=60s", "pod/sink"])?;
    let url = format!("http://sink.{HOME}");
    eventually("the sink is reached through the waypoint", SOON, || {
        let said = sh(cluster, "routes/client", &format!("curl -sS -i -m 5 -d abc {url}/"))?;
        ensure!(said.contains("x-passed: yes") && said.ends_with("\r\n\r\n3"), "{said}");
        anyhow::Ok(())
    })?;
    upload(cluster, &url)?;
    slow(cluster, &url)
}

fn upload(cluster: &Cluster, url: &str) -> Result<()> {
    let before = memory(cluster)?;
    let line =
        format!("truncate -s {BYTES} /tmp/large && curl -sS -m 240 -H 'Expect:' -T /tmp/large {url}/up; rm /tmp/large");
    let said = sh(cluster, "routes/client", &line)?;
    ensure!(said.trim() == BYTES.to_string(), "the server got {said:?} of {BYTES} bytes");
    let grown = memory(cluster)?.saturating_sub(before);
    ensure!(grown < GROWTH, "the waypoint grew by {grown} bytes while {BYTES} passed");
    println!("      {BYTES} bytes went up, the waypoint grew by {} KiB", grown >> 10);
    Ok(())
}

// What the kernel has seen at most, of all replicas: a body that was gathered and freed again is seen too.
fn memory(cluster: &Cluster) -> Result<u64> {
    let label = format!("gateway.networking.k8s.io/gateway-name={NAME}");
    let pods = cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", &label, "-o", "json"])?;
    let pods: Value = serde_json::from_str(&pods)?;
    let mut total = 0;
    for pod in pods["items"].as_array().context("no pods")? {
        let uid = pod["metadata"]["uid"].as_str().context("a pod without uid")?;
        let node = pod["spec"]["nodeName"].as_str().context("a pod on no node")?;
        // Peak of the version 1 hierarchy, which this machine's kubelet uses, or of version 2.
        let line = format!(
            "find /sys/fs/cgroup -type d -path '*pod{uid}' | while read d; do cat $d/memory.max_usage_in_bytes $d/memory.peak 2>/dev/null; done | sort -n | tail -1"
        );
        let said = cluster.exec_on_node(node, &["sh", "-c", &line])?;
        total += said.trim().parse::<u64>().with_context(|| format!("memory of {uid} on {node}: {said:?}"))?;
    }
    Ok(total)
}

fn slow(cluster: &Cluster, url: &str) -> Result<()> {
    // Each word with the second in which it came.
    let line = format!("curl -sSN -m 30 {url}/slow | while read -r word; do echo $(date +%s) $word; done");
    let said = sh(cluster, "routes/client", &line)?;
    let seconds: std::collections::BTreeSet<_> = said.lines().filter_map(|l| l.split(' ').next()).collect();
    ensure!(said.lines().count() == 10, "not ten words:\n{said}");
    ensure!(seconds.len() >= 8, "ten words of ten seconds came in {} of them:\n{said}", seconds.len());
    Ok(())
}
