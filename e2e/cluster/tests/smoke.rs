//! Everything that a test may count on, on one cluster. Root, and what hack/cluster.sh builds: `make test-cluster`.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use common::{SOON, Traces, list, pod, service, sh, until_ready, until_says};
use e2e_cluster::{Cluster, Options, eventually};
use serde_json::{Value, json};

const NGINX: [&str; 3] = ["nginx", "-g", "daemon off;"];
const WAIT: [&str; 2] = ["sleep", "inf"];

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn a_cluster_works_and_leaves_nothing() -> Result<()> {
    let _alone = common::alone();
    let cluster = common::up(Options::default())?;
    let traces = Traces::of(&cluster)?;
    for (name, check) in CHECKS {
        let begun = std::time::Instant::now();
        check(&cluster).with_context(|| (*name).to_owned())?;
        println!("  ok  {name} ({} ms)", begun.elapsed().as_millis());
    }
    cluster.down()?;
    traces.gone()
}

type Check = fn(&Cluster) -> Result<()>;

/// In this order: the first makes what the others use.
const CHECKS: &[(&str, Check)] = &[
    ("pods start on both nodes, readiness probes hold", pods_start),
    ("a Service is reached by name and number from both nodes", services),
    ("names: the cluster's, the node's, and others do not exist", names),
    ("the API server is reached from a pod with its own token and root", api_from_a_pod),
    ("exec and logs", exec_and_logs),
    ("port-forward", port_forward),
    ("a bound token passes review for its audience alone", bound_tokens),
    ("a projected token has its audience", projected_token),
    ("readiness and liveness probes act", probes),
    ("what a node has is its own", nodes_are_apart),
    ("processes of pods are in the node's control group", control_groups),
    ("an image is there on both nodes, and a Deployment spreads", deployment),
    ("the control plane reaches pods and Services", from_the_hub),
];

fn pods_start(cluster: &Cluster) -> Result<()> {
    let ready = json!({"readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1}});
    let token = json!({"serviceAccountToken": {"audience": "culvert-test", "expirationSeconds": 600, "path": "token"}});
    let mounts = json!({
        "volumeMounts": [{"name": "token", "mountPath": "/token"}, {"name": "run", "mountPath": "/node-run"}],
        "securityContext": {"runAsUser": 0},
    });
    let client = |name: &str, node: &str| {
        let mut client = pod(name, node, &WAIT, mounts.clone());
        client["spec"]["volumes"] = json!([
            {"name": "token", "projected": {"sources": [token]}},
            {"name": "run", "hostPath": {"path": "/run/smoke", "type": "DirectoryOrCreate"}},
        ]);
        client
    };
    let server = |name: &str, node: &str| pod(name, node, &NGINX, ready.clone());
    cluster.apply(&list(vec![
        server("server-one", "node1"),
        server("server-two", "node2"),
        service("server-one", 80, 8080),
        service("server-two", 80, 8080),
        client("client-one", "node1"),
        client("client-two", "node2"),
    ]))?;
    until_ready(cluster, &["server-one", "server-two", "client-one", "client-two"])
}

fn services(cluster: &Cluster) -> Result<()> {
    for client in ["client-one", "client-two"] {
        for server in ["server-one", "server-two"] {
            until_says(cluster, client, &format!("curl -sS -m 5 http://{server}/"), server)?;
            let ip = cluster.kubectl(&["get", "service", server, "--output=jsonpath={.spec.clusterIP}"])?;
            until_says(cluster, client, &format!("curl -sS -m 5 http://{ip}/"), server)?;
        }
    }
    // Sources are kept between pods, also across nodes.
    let ip = cluster.kubectl(&["get", "pod", "client-one", "--output=jsonpath={.status.podIP}"])?;
    let cidr = cluster.node("node1")?.pod_cidr().context("no pod network")?.to_owned();
    ensure!(cidr == "10.244.0.0/24" || cidr == "10.244.1.0/24", "pod network {cidr}");
    ensure!(cidr.rsplit_once('.').is_some_and(|(net, _)| ip.starts_with(net)), "{ip} is not in {cidr}");
    Ok(())
}

fn names(cluster: &Cluster) -> Result<()> {
    let dns = sh(cluster, "client-one", "cat /etc/resolv.conf")?;
    ensure!(dns.contains("nameserver 172.30.0.1"), "{dns}");
    let code = "curl -s -m 5 http://server-two.default.svc.cluster.local/ >/dev/null; echo $?";
    until_says(cluster, "client-one", code, "0")?;
    // 6: could not resolve. At once, without waiting for a server elsewhere.
    until_says(cluster, "client-one", "curl -s -m 2 http://example.com/; echo $?", "6")?;
    // The Service that charts look for leads to the same DNS, over UDP through kube-proxy.
    let line = "nslookup kubernetes.default.svc.cluster.local 10.96.0.10 | grep -c 10.96.0.1$";
    until_says(cluster, "client-two", line, "1")
}

fn api_from_a_pod(cluster: &Cluster) -> Result<()> {
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let line = format!(
        "curl -sS -m 5 --cacert {folder}/ca.crt -H \"Authorization: Bearer $(cat {folder}/token)\" \
         https://kubernetes.default.svc/version"
    );
    for client in ["client-one", "client-two"] {
        let said = sh(cluster, client, &line)?;
        ensure!(said.contains("\"gitVersion\": \"v1.34."), "{said}");
    }
    Ok(())
}

fn exec_and_logs(cluster: &Cluster) -> Result<()> {
    let talks = pod("talker", "node2", &["sh", "-c", "echo hello from $HOSTNAME; sleep inf"], json!({}));
    cluster.apply(&talks.to_string())?;
    until_ready(cluster, &["talker"])?;
    let said = cluster.kubectl(&["logs", "talker"])?;
    ensure!(said.trim() == "hello from talker", "{said:?}");
    let echoed = cluster.kubectl_with(&["exec", "-i", "talker", "--", "cat"], "through exec")?;
    ensure!(echoed == "through exec", "{echoed:?}");
    ensure!(cluster.kubectl(&["exec", "talker", "--", "false"]).is_err(), "a failing command must fail");
    Ok(())
}

fn port_forward(cluster: &Cluster) -> Result<()> {
    let mut command = cluster.kubectl_command();
    command.args(["port-forward", "pod/server-two", ":8080"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut said = String::new();
    // Kept until the end: kubectl ends when nobody listens to what else it says.
    let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
    stdout.read_line(&mut said)?;
    // "Forwarding from 127.0.0.1:40123 -> 8080"
    let address = said.split_whitespace().nth(2).map(str::to_owned);
    let fetch = || {
        let address = address.as_ref().with_context(|| format!("kubectl said {said:?}"))?;
        let output = cluster.command("curl").args(["-sS", "-m", "5", &format!("http://{address}/")]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let got: Result<String> = fetch();
    child.kill()?;
    child.wait()?;
    ensure!(got? == "server-two", "through port-forward");
    Ok(())
}

fn review(cluster: &Cluster, token: &str, audience: &str) -> Result<Value> {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token.trim(), "audiences": [audience]},
    });
    let said = cluster.kubectl_with(&["create", "-f", "-", "--output=json"], &review.to_string())?;
    Ok(serde_json::from_str::<Value>(&said)?["status"].clone())
}

fn bound_tokens(cluster: &Cluster) -> Result<()> {
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=client-one"];
    let make = ["create", "token", "default", "--audience=culvert-ca", bound[0], bound[1]];
    let token = cluster.kubectl(&make)?;
    let status = review(cluster, &token, "culvert-ca")?;
    ensure!(status["authenticated"] == true, "{status}");
    ensure!(status["user"]["username"] == "system:serviceaccount:default:default", "{status}");
    let extra = &status["user"]["extra"];
    ensure!(extra["authentication.kubernetes.io/pod-name"][0] == "client-one", "{status}");
    ensure!(extra["authentication.kubernetes.io/node-name"][0] == "node1", "{status}");
    let other = review(cluster, &token, "somebody-else")?;
    ensure!(other["authenticated"] != true, "{other}");
    Ok(())
}

fn projected_token(cluster: &Cluster) -> Result<()> {
    let token = sh(cluster, "client-two", "cat /token/token")?;
    let status = review(cluster, &token, "culvert-test")?;
    ensure!(status["authenticated"] == true && status["audiences"] == json!(["culvert-test"]), "{status}");
    Ok(())
}

fn probes(cluster: &Cluster) -> Result<()> {
    let exec =
        |file: &str| json!({"exec": {"command": ["test", "!", "-e", file]}, "periodSeconds": 1, "failureThreshold": 1});
    let more = json!({"readinessProbe": exec("/tmp/unready"), "livenessProbe": exec("/tmp/dead")});
    cluster.apply(&pod("probed", "node1", &WAIT, more).to_string())?;
    until_ready(cluster, &["probed"])?;
    sh(cluster, "probed", "touch /tmp/unready")?;
    cluster.kubectl(&["wait", "--for=condition=Ready=false", "--timeout=30s", "pod/probed"])?;
    sh(cluster, "probed", "touch /tmp/dead")?;
    eventually("a restart after a failed liveness probe", SOON, || {
        let path = "--output=jsonpath={.status.containerStatuses[0].restartCount}";
        let count = cluster.kubectl(&["get", "pod", "probed", path])?;
        ensure!(count != "0" && !count.is_empty(), "restarts: {count}");
        anyhow::Ok(())
    })?;
    Ok(())
}

fn nodes_are_apart(cluster: &Cluster) -> Result<()> {
    sh(cluster, "client-one", "echo one > /node-run/mark")?;
    let [one, two] = [cluster.node("node1")?, cluster.node("node2")?];
    ensure!(std::fs::read_to_string(one.path("/run/smoke/mark"))?.trim() == "one", "node1 has its pod's file");
    ensure!(two.path("/run/smoke").exists() && !two.path("/run/smoke/mark").exists(), "node2 has its own folder");
    ensure!(!std::path::Path::new("/run/smoke").exists(), "the machine has neither");
    for node in cluster.nodes() {
        let said = cluster
            .exec_on_node(node.name(), &["sh", "-c", "hostname; stat -f -c %T /sys/fs/bpf; ls /etc/cni/net.d"])?;
        ensure!(said == format!("{}\nbpf_fs\n10-culvert-pods.conflist\n", node.name()), "{said:?}");
        let refused = cluster.exec_on_node(node.name(), &["false"]);
        ensure!(refused.is_err(), "a failing command must fail");
    }
    Ok(())
}

fn control_groups(cluster: &Cluster) -> Result<()> {
    let pids = |folder: std::path::PathBuf| -> Result<Vec<String>> {
        Ok(std::fs::read_to_string(folder.join("cgroup.procs"))?.lines().map(str::to_owned).collect())
    };
    for node in cluster.nodes() {
        let kubelet = cluster.processes().into_iter().find(|p| p.name == format!("{}/kubelet", node.name()));
        let kubelet = kubelet.context("no kubelet")?.pid.to_string();
        ensure!(pids(node.cgroup().join("kubelet"))? == [kubelet], "the kubelet alone in its group");
        // These pods ask for nothing, so they are best effort. Each is a group with its containers below.
        let pods = node.cgroup().join("kubepods/besteffort");
        let number = std::fs::read_dir(&pods)?.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("pod"));
        let number = number.count();
        ensure!(number >= 2, "{number} pods in {}", pods.display());
    }
    Ok(())
}

fn deployment(cluster: &Cluster) -> Result<()> {
    let labels = json!({"app": "spread"});
    let spread = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }]);
    let container = json!({"name": "main", "image": "culvert.dev/echo:test", "command": NGINX});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "spread"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "topologySpreadConstraints": spread},
            },
        },
    });
    cluster.apply(&deployment.to_string())?;
    cluster.kubectl(&["rollout", "status", "deployment/spread", "--timeout=60s"])?;
    let nodes = cluster.kubectl(&["get", "pods", "-l", "app=spread", "--output=jsonpath={.items[*].spec.nodeName}"])?;
    let mut nodes: Vec<_> = nodes.split_whitespace().collect();
    nodes.sort_unstable();
    ensure!(nodes == ["node1", "node2"], "{nodes:?}");
    Ok(())
}

fn from_the_hub(cluster: &Cluster) -> Result<()> {
    for name in ["server-one", "server-two"] {
        for (kind, path) in [("pod", "{.status.podIP}"), ("service", "{.spec.clusterIP}")] {
            let ip = cluster.kubectl(&["get", kind, name, &format!("--output=jsonpath={path}")])?;
            let url = if kind == "pod" { format!("http://{ip}:8080/") } else { format!("http://{ip}/") };
            let output = cluster.command("curl").args(["-sS", "-m", "5", &url]).output()?;
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            ensure!(said == name, "{kind} {name} at {url} said {said:?}");
        }
    }
    Ok(())
}
