use super::*;

fn policies(yaml: &str) -> Vec<NetworkPolicy> {
    serde_saphyr::from_str(yaml).unwrap()
}

fn policy(spec: &str) -> NetworkPolicy {
    let spec = serde_saphyr::from_str(spec).unwrap();
    let metadata = ObjectMeta { name: Some("p".into()), namespace: Some("shop".into()), ..ObjectMeta::default() };
    NetworkPolicy { metadata, spec: Some(spec) }
}

/// Labels of the one pod of the mesh, which is in `shop`.
fn labels() -> BTreeMap<String, String> {
    [("app".to_owned(), "web".to_owned())].into()
}

fn told(policies: &[NetworkPolicy]) -> Vec<String> {
    let labels = labels();
    let pods = [Meshed { namespace: "shop", labels: &labels }];
    lacking(policies, &pods).iter().map(ToString::to_string).collect()
}

#[test]
fn who_lacks_what() {
    let says = |rules: &str| vec![format!("NetworkPolicy shop/p lets no tunnels (TCP 15008) through in {rules}")];
    for (spec, want) in [
        ("{podSelector: {}}", vec![]),
        ("{podSelector: {}, ingress: [{}]}", vec![]),
        ("{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}", vec![]),
        ("{podSelector: {}, ingress: [{ports: [{port: 8080}]}]}", says("spec.ingress[0]")),
        ("{podSelector: {}, ingress: [{ports: [{port: http}]}]}", says("spec.ingress[0]")),
        ("{podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 53}]}]}", vec![]),
        ("{podSelector: {}, ingress: [{ports: [{protocol: TCP}]}]}", vec![]),
        ("{podSelector: {}, ingress: [{ports: [{port: 15008}, {port: 80}]}]}", vec![]),
        ("{podSelector: {}, ingress: [{ports: [{port: 15000, endPort: 16000}]}]}", vec![]),
        ("{podSelector: {}, ingress: [{ports: [{port: 15000, endPort: 15007}]}]}", says("spec.ingress[0]")),
        ("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}", says("spec.ingress[0]")),
        ("{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}", vec![]),
        (
            "{podSelector: {matchExpressions: [{key: app, operator: Like}]}, ingress: [{ports: [{port: 80}]}]}",
            says("spec.ingress[0]"),
        ),
        // Another rule lets tunnels of the same peers through, or does not.
        ("{podSelector: {}, ingress: [{ports: [{port: 80}]}, {ports: [{port: 15008}]}]}", vec![]),
        (
            "{podSelector: {}, ingress: [{ports: [{port: 80}]}, {from: [{podSelector: {}}], ports: [{port: 15008}]}]}",
            says("spec.ingress[0]"),
        ),
        (
            "{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}, \
             {from: [{podSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 15008}]}]}",
            vec![],
        ),
        // Egress counts only where the policy speaks of it.
        ("{podSelector: {}, policyTypes: [Ingress], egress: [{ports: [{port: 80}]}]}", vec![]),
        (
            "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}], ingress: [{ports: [{port: 80}]}]}",
            says("spec.egress[0]"),
        ),
        (
            "{podSelector: {}, egress: [{}, {to: [{podSelector: {}}], ports: [{port: 80}]}], \
             ingress: [{ports: [{port: 80}]}, {ports: [{port: 443}]}]}",
            says("spec.ingress[0], spec.ingress[1]"),
        ),
    ] {
        assert_eq!(told(&[policy(spec)]), want, "{spec}");
    }
}

#[test]
fn pods_elsewhere_and_policies_elsewhere_do_not_count() {
    let mut other = policy("{podSelector: {}, ingress: [{ports: [{port: 80}]}]}");
    other.metadata.namespace = Some("ops".into());
    assert!(told(std::slice::from_ref(&other)).is_empty());
    let mut opens = policy("{podSelector: {}, ingress: [{}]}");
    opens.metadata.namespace = Some("ops".into());
    assert_eq!(told(&[opens, policy("{podSelector: {}, ingress: [{ports: [{port: 80}]}]}")]).len(), 1);
    assert!(told(&[NetworkPolicy::default()]).is_empty());
}

const SHOP: &str = "
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: web, namespace: shop}
  spec:
    podSelector: {matchLabels: {app: web}}
    policyTypes: [Ingress, Egress]
    ingress:
    - from: [{podSelector: {matchLabels: {app: api}}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16]}}]
      ports: [{port: http}]
    - from: [{podSelector: {matchLabels: {app: api}}}]
      ports: [{port: 9090}]
    egress:
    - to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
      ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: all, namespace: shop}
  spec: {podSelector: {}, ingress: [{ports: [{port: 443}]}]}
";

#[test]
fn the_companion_lets_the_same_peers_through_and_then_nothing_is_lacking() {
    let labels = labels();
    let pods = [Meshed { namespace: "shop", labels: &labels }];
    let mut all = policies(SHOP);
    let found = lacking(&all, &pods);
    let want = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web-culvert-hbone
  namespace: shop
  labels: {app.kubernetes.io/managed-by: culvert}
  annotations: {culvert.dev/companion-of: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: api}}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16]}}]
    ports: [{protocol: TCP, port: 15008}]
  egress:
  - to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{protocol: TCP, port: 15008}]
";
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].companion, serde_saphyr::from_str(want).unwrap());
    let text = found[0].yaml().unwrap();
    let again: NetworkPolicy = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(again, found[0].companion, "{text}");
    assert_eq!(
        found[0].patch(),
        json!([
            { "op": "add", "path": "/spec/egress/0/ports/-", "value": { "protocol": "TCP", "port": 15008 } },
            { "op": "add", "path": "/spec/ingress/0/ports/-", "value": { "protocol": "TCP", "port": 15008 } },
            { "op": "add", "path": "/spec/ingress/1/ports/-", "value": { "protocol": "TCP", "port": 15008 } },
        ])
    );
    // A rule for anybody stays one for anybody.
    let all_spec = found[1].companion.spec.as_ref().unwrap();
    assert_eq!(all_spec.ingress.as_ref().unwrap()[0].from, None);
    assert_eq!(all_spec.policy_types, Some(vec!["Ingress".to_owned()]));

    all.extend(found.into_iter().map(|l| l.companion));
    assert_eq!(lacking(&all, &pods), []);
}

#[test]
fn long_names_stay_names_and_stay_apart() {
    let (a, b) = (name(&format!("{}a", "x".repeat(252))), name(&format!("{}b", "x".repeat(252))));
    assert_eq!((a.len(), b.len()), (LONGEST, LONGEST));
    assert_ne!(a, b);
    assert_eq!(name("web"), "web-culvert-hbone");
}
