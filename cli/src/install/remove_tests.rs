use clap::Parser;

use super::super::fake::Fake;
use super::*;

const SYSTEM: &str = "/api/v1/namespaces/culvert-system";
const APPS: &str = "/apis/apps/v1/namespaces/culvert-system";

/// An installation as it is in a cluster.
fn installed(by: &str, values: &Value) -> Fake {
    let fake = Fake::default();
    let ours = [(MANAGED_BY, by), (chart::PART_OF.0, chart::PART_OF.1)];
    for path in [
        "/api/v1/namespaces/culvert-system/serviceaccounts/culvert-ca",
        "/apis/apps/v1/namespaces/culvert-system/daemonsets/culvert-node",
        "/apis/apps/v1/namespaces/culvert-system/daemonsets/ztunnel",
        "/apis/apps/v1/namespaces/culvert-system/deployments/culvert-ca",
        "/apis/apps/v1/namespaces/culvert-system/deployments/culvert-control",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/culvert-ca",
    ] {
        fake.put(path, &ours, Value::Null);
    }
    let record = json!({"data": {"values.json": values.to_string()}});
    fake.put(&format!("{SYSTEM}/configmaps/culvert"), &ours, record);
    let authority = [(MANAGED_BY, AUTHORITY)];
    for path in [
        "culvert-system/configmaps/culvert-ca-root-cert",
        "shop/configmaps/culvert-ca-root-cert",
        "shop/configmaps/istio-ca-root-cert",
    ] {
        fake.put(&format!("/api/v1/namespaces/{path}"), &authority, Value::Null);
    }
    fake.put(&format!("{SYSTEM}/secrets/culvert-ca-key"), &authority, Value::Null);
    fake.put("/apis/coordination.k8s.io/v1/namespaces/culvert-system/leases/culvert-control-leader", &[], Value::Null);
    let waypoint = [(MANAGED_BY, CONTROL)];
    let owned =
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Gateway", "name": "w", "uid": "u"}]}});
    fake.put("/apis/apps/v1/namespaces/shop/deployments/waypoint", &waypoint, owned.clone());
    fake.put("/api/v1/namespaces/shop/services/waypoint", &waypoint, owned);
    fake.put("/apis/gateway.networking.k8s.io/v1/gatewayclasses/culvert-waypoint", &waypoint, Value::Null);
    // Of others, by the same names, or with the label copied.
    fake.put("/api/v1/namespaces/shop/services/web", &waypoint, Value::Null);
    fake.put("/api/v1/namespaces/istio-system/configmaps/istio-ca-root-cert", &[(MANAGED_BY, "istiod")], Value::Null);
    fake.put("/api/v1/namespaces/shop/configmaps/culvert", &[], Value::Null);
    fake
}

async fn run(fake: &Fake, arguments: &[&str]) -> Result<Vec<String>> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        uninstall: Uninstall,
    }
    let line = Line::try_parse_from([&["culvert"], arguments].concat())?;
    remove(&fake.client(), &line.uninstall).await?;
    Ok(fake.story())
}

fn at(story: &[String], path: &str) -> usize {
    story.iter().position(|s| *s == format!("GONE {path}")).unwrap_or_else(|| panic!("{path} did not go: {story:#?}"))
}

const OF_OTHERS: [&str; 3] = [
    "/api/v1/namespaces/istio-system/configmaps/istio-ca-root-cert",
    "/api/v1/namespaces/shop/configmaps/culvert",
    "/api/v1/namespaces/shop/services/web",
];

#[tokio::test]
async fn everything_of_ours_goes_in_an_order_in_which_nothing_comes_back() {
    let fake = installed("culvert", &json!({}));
    let story = run(&fake, &[]).await.unwrap();
    let agents = at(&story, &format!("{APPS}/daemonsets/culvert-node"));
    let authority = at(&story, &format!("{APPS}/deployments/culvert-ca"));
    let control = at(&story, &format!("{APPS}/deployments/culvert-control"));
    let lease = at(&story, "/apis/coordination.k8s.io/v1/namespaces/culvert-system/leases/culvert-control-leader");
    assert_eq!(agents, 0, "the agents need the proxies and their own rights until the capture is off");
    assert!(authority < at(&story, &format!("{SYSTEM}/secrets/culvert-ca-key")), "a running authority puts it back");
    assert!(authority < at(&story, "/api/v1/namespaces/shop/configmaps/istio-ca-root-cert"));
    assert!(control < lease);
    let waypoint = at(&story, "/apis/apps/v1/namespaces/shop/deployments/waypoint");
    assert!(control < waypoint, "a running control plane puts it back");
    assert_eq!(fake.left(), OF_OTHERS);
}

#[tokio::test]
async fn the_secret_is_the_recorded_one_and_only_when_the_authority_made_it() {
    let values = json!({"ca": {"secretName": "mine"}});
    let fake = installed("culvert", &values);
    fake.put(&format!("{SYSTEM}/secrets/mine"), &[(MANAGED_BY, AUTHORITY)], Value::Null);
    run(&fake, &[]).await.unwrap();
    assert_eq!(fake.left()[1..], OF_OTHERS);
    assert_eq!(fake.left()[0], format!("{SYSTEM}/secrets/culvert-ca-key"), "nobody said that this one is in use");

    let secret = format!("{SYSTEM}/secrets/mine");
    for (values, label, arguments) in [
        (values.clone(), "cert-manager", &[][..]),
        (values, AUTHORITY, &["--keep-key"][..]),
        (json!({"ca": {"secretName": "mine", "keepSecret": true}}), AUTHORITY, &[][..]),
    ] {
        let fake = installed("culvert", &values);
        fake.put(&secret, &[(MANAGED_BY, label)], Value::Null);
        let held = format!("{secret}-held");
        fake.put(&held, &[(MANAGED_BY, AUTHORITY)], Value::Null);
        run(&fake, arguments).await.unwrap();
        assert!(fake.left().contains(&secret), "{label} {arguments:?}");
        let goes = label != AUTHORITY;
        assert_eq!(!fake.left().contains(&held), goes, "what was kept beside it: {label} {arguments:?}");
    }
}

#[tokio::test]
async fn the_hook_leaves_to_helm_what_is_helms_and_takes_the_rest() {
    let fake = installed("Helm", &json!({}));
    let error = run(&fake, &[]).await.unwrap_err().to_string();
    assert!(error.contains("helm uninstall"), "{error}");
    assert_eq!(fake.story(), [""; 0], "nothing is touched");
    run(&fake, &["--for-helm"]).await.unwrap();
    let left = fake.left();
    for path in [
        "/api/v1/namespaces/culvert-system/serviceaccounts/culvert-ca",
        "/apis/apps/v1/namespaces/culvert-system/daemonsets/ztunnel",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/culvert-ca",
    ] {
        assert!(left.iter().any(|l| l == path), "{path} is Helm's");
    }
    for part in ["secrets", "root-cert", "leases", "deployments", "culvert-node", "waypoint"] {
        let found: Vec<_> = left.iter().filter(|l| l.contains(part) && !OF_OTHERS.contains(&&***l)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}

#[tokio::test]
async fn only_the_agents_go_when_only_the_nodes_are_meant() {
    let fake = installed("Helm", &json!({}));
    let story = run(&fake, &["--only-nodes"]).await.unwrap();
    assert_eq!(story, [format!("GONE {APPS}/daemonsets/culvert-node")]);
}

#[tokio::test]
async fn the_hooks_have_the_rights_to_all_that_they_do() {
    let fake = installed("Helm", &json!({}));
    let owner = json!({"apiVersion": "v1", "kind": "Gateway", "name": "w", "uid": "u"});
    let waypoints = [
        "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/waypoint",
        "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/waypoint",
        "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/waypoint",
        "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/waypoint",
        "/apis/apps/v1/namespaces/shop/deployments/waypoint",
        "/api/v1/namespaces/shop/services/waypoint",
        "/api/v1/namespaces/shop/serviceaccounts/waypoint",
        "/apis/gateway.networking.k8s.io/v1/gatewayclasses/culvert-waypoint",
    ];
    assert_eq!(waypoints.len(), WAYPOINTS.len());
    for path in waypoints {
        fake.put(path, &[(MANAGED_BY, CONTROL)], json!({"metadata": {"ownerReferences": [owner]}}));
    }
    let objects = chart::helms();
    fake.limit(&objects, "culvert-remove");
    let story = run(&fake, &["--for-helm"]).await.unwrap();
    assert_eq!(fake.refused(), [""; 0], "also what is not fatal");
    for path in waypoints {
        at(&story, path);
    }
    at(&story, &format!("{SYSTEM}/secrets/culvert-ca-key"));

    let kind = json!({"spec": {"group": "culvert.dev", "names": {"kind": "RequestPolicy", "plural": "requestpolicies"},
        "scope": "Namespaced", "versions": [{"name": "v1alpha1", "served": true, "storage": true}]}});
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/requestpolicies.culvert.dev";
    fake.put(path, &[(MANAGED_BY, "Helm"), (chart::PART_OF.0, chart::PART_OF.1)], kind);
    fake.limit(&objects, "culvert-crds-remove");
    at(&run(&fake, &["--only-definitions", "--managed-by", "Helm"]).await.unwrap(), path);
    assert_eq!(fake.refused(), [""; 0]);
}

/// A word of a node's agent, about the DaemonSet with this UID.
fn word(fake: &Fake, node: &str, uid: &str, reason: &str) {
    let event = json!({"regarding": {"uid": uid}, "reportingInstance": node, "reason": reason, "note": "rules in pods: why",
        "eventTime": null});
    fake.put(&format!("/apis/events.k8s.io/v1/namespaces/culvert-system/events/{node}{reason}"), &[], event);
}

#[tokio::test]
async fn the_proxies_stay_until_every_captured_node_has_said_that_it_is_free() {
    let fake = installed("Helm", &json!({}));
    let node = |name: &str, boot: &str| {
        let info = json!({"bootID": boot, "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""});
        fake.put(&format!("/api/v1/nodes/{name}"), &[], json!({"status": {"nodeInfo": info}}));
    };
    let agent = |node: &str, ready: &str| {
        let pod = json!({"spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        fake.put(&format!("{SYSTEM}/pods/culvert-node-{node}"), &[("app.kubernetes.io/name", AGENTS)], pod);
    };
    for (name, ready) in [("good", "True"), ("failed", "True"), ("silent", "False"), ("never", "False")] {
        node(name, "1");
        agent(name, ready);
    }
    let captured = json!({"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}},
        "spec": {"nodeName": "silent", "containers": []}});
    fake.put_by("/api/v1/namespaces/shop/pods/web", "culvert-node", captured.clone());
    // Istio's agent captured this one.
    let mut of_istio = captured;
    of_istio["spec"]["nodeName"] = json!("never");
    fake.put_by("/api/v1/namespaces/shop/pods/other", "istio-cni", of_istio);
    let uid = format!("{APPS}/daemonsets/culvert-node");
    word(&fake, "good", &uid, "CaptureRemoved");
    word(&fake, "failed", &uid, "CaptureLeft");
    word(&fake, "silent", "an earlier one", "CaptureRemoved");
    fake.limit(&chart::helms(), "culvert-remove");

    for attempt in ["first", "again, without agents"] {
        let error = run(&fake, &["--for-helm"]).await.unwrap_err().to_string();
        assert!(error.contains("2 of the nodes") && error.contains("remedy: "), "{attempt}: {error}");
        assert!(
            error.contains("  failed: rules in pods: why") && error.contains("  silent: its agent ended"),
            "{error}"
        );
        assert_eq!(fake.story(), [format!("GONE {uid}")], "{attempt}");
    }
    // One tells at last; the other is started again.
    word(&fake, "failed", &uid, "CaptureRemoved");
    node("silent", "2");
    run(&fake, &["--for-helm"]).await.unwrap();
    assert_eq!(fake.refused(), [""; 0]);
}
