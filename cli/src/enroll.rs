//! `culvert enroll` and `culvert unenroll`: what `kubectl label` does, with a look at what would break.

mod findings;

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use kubernetes::client::call;
use kubernetes::network_policy::{self, Meshed};
use kubernetes::object::GATEWAY_NAME;
use serde_json::json;

use self::findings::{Severity, find};
use crate::cluster::Connection;

/// Istio's switch (cni-zds.md 1).
pub(crate) const MODE: &str = "istio.io/dataplane-mode";

/// Takes a namespace into the mesh.
#[derive(Args)]
pub(crate) struct Enroll {
    #[command(flatten)]
    connection: Connection,
    /// The namespace, as in `ns/shop`.
    target: String,
    /// Only say what would break.
    #[arg(long)]
    dry_run: bool,
    /// Label it although something would break.
    #[arg(long)]
    force: bool,
}

/// Takes a namespace out of the mesh.
#[derive(Args)]
pub(crate) struct Unenroll {
    #[command(flatten)]
    connection: Connection,
    /// The namespace, as in `ns/shop`.
    target: String,
}

/// Runs `enroll`.
pub(crate) async fn enroll(command: Enroll) -> Result<ExitCode> {
    let name = namespace(&command.target)?;
    let client = command.connection.client().await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let all: Vec<Namespace> = call("list namespaces", namespaces.list(&ListParams::default())).await?.items;
    let pods: Api<Pod> = Api::all(client.clone());
    let pods = call("list pods", pods.list(&ListParams::default())).await?.items;
    let policies: Api<NetworkPolicy> = Api::all(client.clone());
    let policies = call("list network policies", policies.list(&ListParams::default())).await?.items;
    let found = find(name, &all, &pods, &policies)?;
    let mut out = stdout().lock();
    for finding in &found {
        writeln!(out, "{finding}")?;
    }
    let broken = found.iter().filter(|f| f.severity == Severity::Breaks).count();
    writeln!(
        out,
        "{} pods, {broken} findings that would break something, {} to know",
        pods.iter().filter(|pod| pod.namespace().as_deref() == Some(name)).count(),
        found.len() - broken
    )?;
    if command.dry_run {
        return Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if broken > 0 && !command.force {
        bail!("{name} was not labelled; mend the above, or use --force");
    }
    label(&client, name, Some("ambient")).await?;
    writeln!(out, "{name} is in the mesh; `culvert status -n {name}` shows its pods")?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `unenroll`.
pub(crate) async fn unenroll(command: Unenroll) -> Result<ExitCode> {
    let name = namespace(&command.target)?;
    let client = command.connection.client().await?;
    label(&client, name, None).await?;
    writeln!(stdout(), "{name} leaves the mesh; `culvert status -n {name}` shows its pods")?;
    Ok(ExitCode::SUCCESS)
}

async fn label(client: &Client, name: &str, value: Option<&str>) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    let patch = Patch::Merge(json!({"metadata": {"labels": {MODE: value}}}));
    call("label the namespace", api.patch(name, &PatchParams::default(), &patch)).await?;
    Ok(())
}

fn namespace(target: &str) -> Result<&str> {
    let name = target.strip_prefix("ns/").or_else(|| target.strip_prefix("namespace/")).unwrap_or(target);
    if name.is_empty() || name.contains('/') {
        bail!("{target:?} is no namespace; write ns/NAME");
    }
    Some(name).context("a namespace is needed")
}

/// A policy that keeps tunnels from pods in the mesh, or those of pods in the mesh from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// `namespace/name`.
    pub(crate) policy: String,
    /// What it lacks.
    pub(crate) what: String,
    /// A command that mends it.
    pub(crate) remedy: String,
}

/// Policies that keep tunnels from their way: from pods that are in the mesh by their labels, and from waypoints.
pub(crate) fn blocked(namespaces: &[Namespace], pods: &[Pod], policies: &[NetworkPolicy]) -> Vec<Blocked> {
    let in_mesh = |object: &BTreeMap<String, String>| object.get(MODE).map(String::as_str) == Some("ambient");
    let enrolled: Vec<String> = namespaces.iter().filter(|n| in_mesh(n.labels())).map(ResourceExt::name_any).collect();
    let host = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    let by_namespace = |p: &Pod| p.namespace().is_some_and(|n| enrolled.contains(&n));
    let takes_tunnels = |p: &Pod| match p.labels().get(MODE).map(String::as_str) {
        Some("ambient") => true,
        // Not captured, because it ends tunnels itself.
        Some("none") => p.labels().contains_key(GATEWAY_NAME),
        // Any other value says nothing (node, `kubernetes/enrolment.rs`).
        None | Some(_) => by_namespace(p),
    };
    let meshed: Vec<Meshed<'_>> = pods
        .iter()
        .filter(|p| !host(p) && takes_tunnels(p))
        .map(|p| Meshed { namespace: p.metadata.namespace.as_deref().unwrap_or_default(), labels: p.labels() })
        .collect();
    let found = network_policy::lacking(policies, &meshed);
    found
        .iter()
        .map(|lacking| {
            let (namespace, name) = (&lacking.namespace, &lacking.name);
            let remedy =
                format!("kubectl patch networkpolicy -n {namespace} {name} --type=json -p '{}'", lacking.patch());
            Blocked { policy: format!("{namespace}/{name}"), what: lacking.what(), remedy }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_policy_that_would_cut_tunnels_off_is_named_with_its_patch() {
        let namespace: Namespace = of(json!({"metadata": {"name": "shop"}}));
        let pod = |labels: serde_json::Value, spec: serde_json::Value| -> Pod {
            of(json!({"metadata": {"name": "web", "namespace": "shop", "labels": labels}, "spec": spec}))
        };
        let plain = pod(json!({"app": "web"}), json!({"containers": []}));
        let policy: NetworkPolicy = of(json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": 80}]}]}}));
        let found =
            find("shop", std::slice::from_ref(&namespace), std::slice::from_ref(&plain), std::slice::from_ref(&policy))
                .unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].severity == Severity::Breaks && found[0].remedy.contains("15008"), "{}", found[0]);
        assert!(found[0].what.starts_with("lets no tunnels (TCP 15008) through in spec.ingress[0]"), "{}", found[0]);
        // What goes out needs the port as well.
        let out: NetworkPolicy = of(json!({"metadata": {"name": "out", "namespace": "shop"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [
                {"ports": [{"port": 53, "protocol": "UDP"}]},
                {"to": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": 5432}]}]}}));
        let of_out =
            find("shop", std::slice::from_ref(&namespace), std::slice::from_ref(&plain), std::slice::from_ref(&out))
                .unwrap();
        assert_eq!(of_out.len(), 1);
        assert!(of_out[0].what.contains("spec.egress[1]"), "{}", of_out[0]);
        assert!(of_out[0].remedy.contains("/spec/egress/1/ports/-"), "{}", of_out[0]);
        // Before it is labelled nothing is wrong, and a policy of others is not ours to judge.
        assert!(
            blocked(std::slice::from_ref(&namespace), std::slice::from_ref(&plain), std::slice::from_ref(&policy))
                .is_empty()
        );
        // A value of the label that nobody knows says nothing.
        let mut labelled = namespace.clone();
        labelled.labels_mut().insert(MODE.to_owned(), "ambient".to_owned());
        let odd = pod(json!({"app": "web", MODE: "anything"}), json!({"containers": []}));
        assert_eq!(blocked(&[labelled], &[odd], std::slice::from_ref(&policy)).len(), 1);
        // A waypoint takes tunnels wherever it is; another pod that is kept out does not.
        let kept_out = |more: &str| pod(json!({"app": "web", MODE: "none", more: "wp"}), json!({"containers": []}));
        let of = |pod: Pod| blocked(std::slice::from_ref(&namespace), &[pod], std::slice::from_ref(&policy)).len();
        assert_eq!((of(kept_out(GATEWAY_NAME)), of(kept_out("x"))), (1, 0));
        assert!(find("gone", &[namespace], &[], &[]).unwrap_err().to_string().contains("there are shop"));
    }

    #[test]
    fn a_policy_of_another_namespace_that_would_cut_tunnels_to_this_one_off_is_named() {
        let namespaces: Vec<Namespace> = [
            json!({"name": "web", "labels": {MODE: "ambient"}}),
            json!({"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}}),
            json!({"name": "bank"}),
        ]
        .map(|metadata| of(json!({ "metadata": metadata })))
        .to_vec();
        let pods: Vec<Pod> = ["web", "shop", "bank"]
            .map(|n| of(json!({"metadata": {"name": "p", "namespace": n}, "spec": {"containers": []}})))
            .to_vec();
        let to_shop = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}});
        let policy: NetworkPolicy =
            of(json!({"metadata": {"name": "out", "namespace": "web"}, "spec": {"podSelector": {},
            "policyTypes": ["Egress"], "egress": [{"to": [to_shop], "ports": [{"port": 8080}]}]}}));
        let told = |name: &str| find(name, &namespaces, &pods, std::slice::from_ref(&policy)).unwrap();
        let of_shop = told("shop");
        assert_eq!(of_shop.len(), 1);
        assert!(of_shop[0].object == "NetworkPolicy web/out" && of_shop[0].remedy.contains("15008"), "{}", of_shop[0]);
        assert_eq!(told("bank"), []);
    }

    #[test]
    fn pods_that_cannot_or_do_not_join_are_named() {
        let namespace: Namespace = of(json!({"metadata": {"name": "shop",
            "labels": {"istio-injection": "enabled", "istio.io/rev": "1-26"}}}));
        let pod = |name: &str, spec: serde_json::Value, annotations: serde_json::Value| -> Pod {
            of(json!({"metadata": {"name": name, "namespace": "shop", "annotations": annotations}, "spec": spec}))
        };
        let pods = [
            pod("host", json!({"containers": [], "hostNetwork": true}), json!({})),
            pod("sandboxed", json!({"containers": [], "runtimeClassName": "kata-qemu"}), json!({})),
            pod("sidecar", json!({"containers": []}), json!({"sidecar.istio.io/status": "{}"})),
            pod("port", json!({"containers": [{"name": "c", "ports": [{"containerPort": 15006}]}]}), json!({})),
            pod("named", json!({"containers": [], "runtimeClassName": "my-kata"}), json!({})),
            pod("plain", json!({"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}), json!({})),
        ];
        let found = find("shop", &[namespace], &pods, &[]).unwrap();
        let breaks: Vec<&str> =
            found.iter().filter(|f| f.severity == Severity::Breaks).map(|f| f.object.as_str()).collect();
        assert_eq!(breaks, ["namespace shop", "namespace shop", "pod shop/port"]);
        assert_eq!(found.len(), 6);
        let sandboxed = found.iter().find(|f| f.object == "pod shop/sandboxed").unwrap();
        assert!(sandboxed.what.contains("stays out of the mesh"), "{sandboxed}");
    }

    #[test]
    fn a_target_is_a_namespace() {
        assert_eq!(namespace("ns/shop").unwrap(), "shop");
        assert_eq!(namespace("shop").unwrap(), "shop");
        assert!(namespace("deploy/x").is_err() && namespace("ns/").is_err());
    }
}
