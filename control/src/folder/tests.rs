use std::fs;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

/// Longer than any scheduling delay of a busy machine.
const SOON: Duration = Duration::from_secs(20);

const SHOP: &str = "
# A shop.
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: cart-1, namespace: shop}
  spec: {serviceAccountName: cart, nodeName: node-a, containers: []}
  status: {phase: Running, podIP: 10.0.0.1}
- apiVersion: v1
  kind: Service
  metadata: {name: cart}
  spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

async fn next(fed: &mut mpsc::Receiver<Feed>) -> Feed {
    timeout(SOON, fed.recv()).await.unwrap().unwrap()
}

/// What comes between begins and finishes.
async fn first(fed: &mut mpsc::Receiver<Feed>) -> Vec<String> {
    let mut said = Vec::new();
    let mut finished = 0;
    while finished < Kind::ALL.len() {
        match next(fed).await {
            Feed::Begin(_) => assert_eq!(finished, 0),
            Feed::Finish(_) => finished += 1,
            Feed::Upsert(input) => said.push(input.key().to_string()),
            other => panic!("{other:?}"),
        }
    }
    said
}

#[tokio::test]
async fn a_folder_is_handed_out_whole_and_then_followed() {
    let folder = folder(&[("shop.yaml", SHOP), ("notes.txt", "no: [manifest"), (".hidden.yaml", "also: [not")]);
    let at = |name: &str| folder.path().join(name);
    let (feed, mut fed) = mpsc::channel(64);
    let task = tokio::spawn(Folder::open(folder.path()).unwrap().run(feed));
    assert_eq!(first(&mut fed).await, ["Namespace shop", "Pod shop/cart-1", "Service default/cart"]);

    fs::write(at("shop.yaml"), SHOP.replace("10.0.0.1", "10.0.0.2")).unwrap();
    let Feed::Upsert(input) = next(&mut fed).await else { panic!() };
    let Input::Pod(pod) = *input else { panic!("only the pod differs") };
    assert_eq!((&*pod.meta.uid, &*pod.addresses), ("shop/cart-1", &["10.0.0.2".parse().unwrap()][..]));

    // A broken file changes nothing; a new one is taken at once.
    fs::write(at("shop.yaml"), "kind: [").unwrap();
    fs::write(at("node.json"), r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}"#).unwrap();
    let Feed::Upsert(input) = next(&mut fed).await else { panic!() };
    assert_eq!(input.key().to_string(), "Node node-a");
    fs::remove_file(at("node.json")).unwrap();
    assert_eq!(next(&mut fed).await, Feed::Remove(Key::new(Kind::Node, "", "node-a")));
    fs::remove_file(at("shop.yaml")).unwrap();
    for _ in 0..3 {
        assert!(matches!(next(&mut fed).await, Feed::Remove(_)));
    }
    drop(fed);
    timeout(SOON, task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn all_mistakes_of_all_files_come_with_their_lines() {
    let bad = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: 7}\n---\nkind: Pod\n---\n\napiVersion: v1\nkind: Service\nmetadata: {}\n";
    let folder = folder(&[("a.yaml", bad), ("b.yaml", "x: 1\nx: 2\n"), ("c.yaml", SHOP)]);
    for mistakes in
        [Folder::open(folder.path()).unwrap_err().to_string(), Folder::check(folder.path()).unwrap_err().to_string()]
    {
        for wanted in
            ["a.yaml:1", "not a Pod", "a.yaml:6", "apiVersion and kind", "a.yaml:9", "metadata.name", "b.yaml:2"]
        {
            assert!(mistakes.contains(wanted), "{wanted}: {mistakes}");
        }
    }
    let missing = Folder::open(&folder.path().join("no")).unwrap_err().to_string();
    assert!(missing.contains("/no"), "{missing}");
}

#[tokio::test]
async fn of_two_manifests_of_an_object_the_first_file_counts() {
    let node = |zone: &str| {
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n")
    };
    let folder = folder(&[("1.yaml", &node("z1")), ("2.yaml", &node("z2"))]);
    let mut made = Folder::open(folder.path()).unwrap();
    let zone = |events: Vec<Feed>| match &events[..] {
        [Feed::Upsert(input)] => match &**input {
            Input::Node(node) => node.locality.zone.to_string(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert_eq!(zone(made.differences()), "z1");
    fs::remove_file(folder.path().join("1.yaml")).unwrap();
    assert!(made.read().unwrap().0.is_empty());
    assert_eq!(zone(made.differences()), "z2");
    assert_eq!(made.differences(), []);
}

#[test]
fn a_field_that_a_kind_does_not_have_is_a_mistake_with_its_place() {
    let typos = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec:
  rules:
  - form:
    - source: {principals: ['*']}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b, namespace: shop, labls: {x: y}}
spec:
  podSelector: {}
  ingress:
  - prots: [{port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: c, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart}]
  rules:
  - matches: [{path: {type: Exact, vlaue: /x}}]
status: {parents: [], of: {a: controller}}
";
    let folder = folder(&[("a.yaml", typos)]);
    let mistakes = Folder::check(folder.path()).unwrap_err().to_string();
    for wanted in [
        "a.yaml:7:7: spec.rules[0].form",
        "AuthorizationPolicy has no field form here",
        "a.yaml:11",
        "no field labls",
        "a.yaml:15",
        "no field prots",
        "a.yaml:23",
        "no field vlaue",
    ] {
        assert!(mistakes.contains(wanted), "{wanted}: {mistakes}");
    }
    assert_eq!(mistakes.lines().count(), 4, "{mistakes}");
}
