use super::*;

const DOCUMENT: &str = "
name: t
nodes: [{name: node1}, {name: node2}]
pods:
  - {name: web, node: node1}
  - {name: a-very-long-name-of-a-pod, node: node1, namespace: shop, serviceAccount: sa}
  - {name: cart, node: node2}
services:
  - {name: cart, ports: {80: 8080}, pods: [cart]}
  - {name: bare, ports: {80: 8080}, pods: [cart], headless: true}
";

fn plan() -> Plan {
    Plan::new(Spec::parse("t.yaml", DOCUMENT).unwrap()).unwrap()
}

#[test]
fn addresses_follow_the_table() {
    let plan = plan();
    let text = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(text(&plan.nodes[1].addresses), "10.99.0.12 fd00:99::c");
    assert_eq!(text(&plan.pod("web").unwrap().addresses), "10.244.1.10 fd00:244:1::a");
    assert_eq!(text(&plan.pod("cart").unwrap().addresses), "10.244.2.10 fd00:244:2::a");
    assert_eq!(text(&plan.services[0].vips), "10.96.0.10 fd00:96::a");
    assert!(plan.services[1].vips.is_empty());
    let node = plan.node("node1").unwrap();
    assert_eq!(text(&plan.ztunnel(node, 2).unwrap()), "10.244.1.201 fd00:244:1::c9");
    assert!(plan.ztunnel(node, 60).is_err());
    assert_eq!(
        node.pod_cidrs().iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.244.1.0/24", "fd00:244:1::/64"]
    );
}

#[test]
fn names_of_interfaces_fit_the_kernel() {
    let plan = plan();
    assert_eq!(plan.pods[1].host_interface, "p11-a-very-long");
    assert_eq!(plan.pods[1].uid, "Kubernetes//Pod/shop/a-very-long-name-of-a-pod");
    assert_eq!(plan.pods[1].pod.account(), "sa");
    assert_eq!(plan.pods[0].pod.account(), "web");
}

#[test]
fn a_removed_pods_place_is_used_again() {
    let mut plan = plan();
    let web = plan.pods.remove(0);
    let again = plan.place_pod(Pod { name: "again".to_owned(), ..web.pod.clone() }).unwrap();
    assert_eq!(again.addresses, web.addresses);
}

#[test]
fn a_plan_survives_its_own_file() {
    let plan = plan();
    let text = serde_json::to_string(&plan).unwrap();
    let back: Plan = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = "
name: Bad_Name
nodes: [{name: wire}, {name: n}, {name: n}]
pods:
  - {name: a, node: nowhere}
  - {name: a, node: n, ready: {tcp: 80}, files: {/etc/passwd: x, ../up: y}}
  - {name: b, namespace: other, node: n, policies: [shop/none]}
services:
  - {name: s, ports: {}, pods: [zzz, b]}
policies:
  - {name: p, namespace: shop, scope: Global, action: Deny, rules: [[[{}]]]}
telemetry: {otlp: nonsense, sampling: 2}
workers: 0
trustDomain: a/b
";
    let mistakes = Spec::parse("bad.yaml", text).unwrap_err();
    let all = mistakes.to_string();
    for part in [
        "Bad_Name",
        "wire",
        "another node n",
        "no node \"nowhere\"",
        "another pod a",
        "runs no program",
        "/etc/passwd",
        "../up",
        "shop/none",
        "no port",
        "no pod \"zzz\"",
        "in namespace other",
        "matches nothing",
        "nonsense",
        "2 is not a share",
        "0 workers",
        "a/b",
    ] {
        assert!(all.contains(part), "{part} is missing in:\n{all}");
    }
    assert!(mistakes.0.iter().all(|m| m.line > 1 && !m.remedy.is_empty()));
}

#[test]
fn unknown_keys_are_refused() {
    let text = "name: t\nnodes: [{name: n}]\npods: [{name: a, node: n, comand: [x]}]\n";
    assert!(Spec::parse("bad.yaml", text).unwrap_err().to_string().contains("comand"));
}
