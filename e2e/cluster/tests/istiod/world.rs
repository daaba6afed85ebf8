//! What stands around the proxy: istiod beside the control plane, our node agent, and Istio's chart with our image.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs::File;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::tools::{Tools, folder, run};
use crate::common::{SOON, list, workspace};

/// Address of the bridge that joins control plane and nodes (README of this crate).
const HUB: &str = "172.30.0.1";
/// Port of istiod's discovery and authority, both by TLS.
const PORT: u16 = 15012;
/// Port of its readiness; 8080, the usual one, is CoreDNS' here.
const READINESS: u16 = 15080;
/// istiod loads everything that it watches before it is ready: ten seconds on a quiet machine.
const READY: Duration = Duration::from_secs(120);

/// istiod, as a process beside the control plane. It ends when this is dropped.
pub(crate) struct Istiod {
    child: Child,
}

impl Istiod {
    /// Starts it, and returns when it is ready.
    pub(crate) fn start(cluster: &Cluster, tools: &Tools) -> Result<Self> {
        let folder = folder(cluster)?;
        let log = File::options().create(true).append(true).open(log(cluster)?)?;
        let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig().display());
        let mut command = cluster.command(&tools.istiod.display().to_string());
        command.args([
            "discovery",
            &kubeconfig,
            "--httpsAddr=",
            &format!("--secureGRPCAddr=:{PORT}"),
            "--grpcAddr=:15010",
        ]);
        let plain = format!("--httpAddr=127.0.0.1:{READINESS}");
        command.args(["--monitoringAddr=:15014", &plain, "--domain", "cluster.local"]);
        let environment = [
            ("POD_NAME", "istiod"),
            ("POD_NAMESPACE", "istio-system"),
            ("SERVICE_ACCOUNT", "istiod"),
            ("REVISION", "default"),
            ("CLUSTER_ID", "Kubernetes"),
            ("PILOT_ENABLE_AMBIENT", "true"),
            ("PILOT_CERT_PROVIDER", "istiod"),
            ("CA_TRUSTED_NODE_ACCOUNTS", "istio-system/ztunnel"),
            // The name in its certificate.
            ("ISTIOD_CUSTOM_HOST", "istiod.istio-system.svc"),
        ];
        let child = command.envs(environment).current_dir(folder).stdout(log.try_clone()?).stderr(log).spawn();
        let mut istiod = Self { child: child.context("istiod")? };
        let url = format!("http://127.0.0.1:{READINESS}/ready");
        let ended = eventually("istiod", READY, || match istiod.child.try_wait()? {
            Some(status) => Ok(Some(status)),
            None => run(cluster, "curl".as_ref(), &["-sS", "-f", "-m", "2", &url]).map(|_| None),
        })?;
        if let Some(status) = ended {
            bail!("istiod ended ({status})");
        }
        Ok(istiod)
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Istiod {
    fn drop(&mut self) {
        // One that was killed is gone already.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

fn log(cluster: &Cluster) -> Result<PathBuf> {
    Ok(folder(cluster)?.join("istiod.log"))
}

/// Istio's own objects: definitions, settings, and the name by which pods reach istiod.
pub(crate) fn objects(cluster: &Cluster, tools: &Tools) -> Result<()> {
    let definitions = tools.chart("base/files/crd-all.gen.yaml");
    cluster.kubectl(&["apply", "--server-side", "-f", &definitions])?;
    let named = |api: &str, kind: &str, name: &str, more: Value| {
        let mut object =
            json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "istio-system"}});
        if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        object
    };
    let mesh = "rootNamespace: istio-system\ntrustDomain: cluster.local\n";
    let port = json!([{"name": "https-dns", "port": PORT, "protocol": "TCP"}]);
    let mut slice = named(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "istiod",
        json!({"addressType": "IPv4", "ports": port,
        "endpoints": [{"addresses": [HUB], "conditions": {"ready": true}}]}),
    );
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "istiod"});
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    cluster.apply(&list(vec![
        namespace("istio-system"),
        namespace("culvert-system"),
        named("v1", "ServiceAccount", "istiod", json!({})),
        named("v1", "ConfigMap", "istio", json!({"data": {"mesh": mesh}})),
        named("v1", "Service", "istiod", json!({"spec": {"ports": port}})),
        slice,
    ]))?;
    Ok(())
}

/// Our node agent, and nothing else of Culvert's.
pub(crate) fn agent(cluster: &Cluster) -> Result<()> {
    let settings = [
        // The nodes share one tree of control groups, in which each has a folder.
        "--set=node.cgroupRoot=/sys/fs/cgroup/unified/${NODE_NAME}",
        "--set=node.proxyAccounts={istio-system/ztunnel}",
        "--set=image.pullPolicy=Never",
    ];
    let mut arguments = vec!["manifest", "generate"];
    arguments.extend(settings);
    let objects = run(cluster, &workspace().join("target/debug/culvert"), &arguments)?;
    let only = ["apply", "--server-side", "-l", "app.kubernetes.io/name=culvert-node", "-f", "-"];
    cluster.kubectl_with(&only, &objects)?;
    cluster.kubectl(&["rollout", "status", "-n", "culvert-system", "ds/culvert-node", "--timeout=120s"])?;
    Ok(())
}

/// Istio's chart of its proxy, with our image in it: what docs/drop-in.md says.
pub(crate) fn proxy(cluster: &Cluster, tools: &Tools) -> Result<()> {
    let image = format!("--set=image=culvert.dev/ztunnel:{}", env!("CARGO_PKG_VERSION"));
    let chart = tools.chart("ztunnel");
    let settings = ["-n", "istio-system", "--set=imagePullPolicy=IfNotPresent", &image];
    let mut arguments = vec!["upgrade", "--install", "ztunnel", &chart];
    arguments.extend(settings);
    tools.helm(cluster, &arguments)?;
    cluster.kubectl(&["rollout", "status", "-n", "istio-system", "ds/ztunnel", "--timeout=120s"])?;
    Ok(())
}

/// Name of the proxy's pod on a node.
pub(crate) fn proxy_on(cluster: &Cluster, node: &str) -> Result<String> {
    let field = format!("spec.nodeName={node}");
    let pods = cluster.kubectl(&[
        "get",
        "pods",
        "-n",
        "istio-system",
        "-l",
        "app=ztunnel",
        "--field-selector",
        &field,
        "-o",
        "json",
    ])?;
    let pods: Value = serde_json::from_str(&pods)?;
    let living =
        pods["items"].as_array().context("no pods")?.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
    let names: Vec<&str> = living.filter_map(|p| p["metadata"]["name"].as_str()).collect();
    ensure!(names.len() == 1, "proxies on {node}: {names:?}");
    Ok(names[0].to_owned())
}

/// What the proxy on a node has said.
pub(crate) fn proxy_log(cluster: &Cluster, node: &str) -> Result<String> {
    Ok(cluster.kubectl(&["logs", "-n", "istio-system", &proxy_on(cluster, node)?, "--tail=200"])?)
}

/// New proxies in the place of the old ones, by surge, as the chart has it.
pub(crate) fn replace_proxies(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["rollout", "restart", "-n", "istio-system", "ds/ztunnel"])?;
    cluster.kubectl(&["rollout", "status", "-n", "istio-system", "ds/ztunnel", "--timeout=180s"])?;
    let old = || cluster.nodes().iter().try_for_each(|node| proxy_on(cluster, node.name()).map(drop));
    eventually("the old proxies are gone", SOON, old)?;
    Ok(())
}

/// Prints what helps to understand a failure.
pub(crate) fn tell_all(cluster: &Cluster) {
    let tell = |what: &[&str]| match cluster.kubectl(what) {
        Ok(said) => println!("--- kubectl {}\n{said}", what.join(" ")),
        Err(error) => println!("--- kubectl {}: {error}", what.join(" ")),
    };
    tell(&["get", "pods", "-A", "-o", "wide"]);
    tell(&["get", "events", "-A", "--sort-by=.lastTimestamp"]);
    tell(&["get", "peerauthentications,authorizationpolicies", "-A", "-o", "yaml"]);
    tell(&["logs", "-n", "culvert-system", "-l", "app.kubernetes.io/name=culvert-node", "--tail=30", "--prefix"]);
    tell(&["logs", "-n", "istio-system", "-l", "k8s-app=istio-cni-node", "--tail=30", "--prefix"]);
    tell(&["logs", "-n", "istio-system", "-l", "app=ztunnel", "--tail=30", "--prefix"]);
    match log(cluster).and_then(|path| Ok(std::fs::read_to_string(path)?)) {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            println!("--- istiod\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        Err(error) => println!("--- istiod: {error}"),
    }
}
