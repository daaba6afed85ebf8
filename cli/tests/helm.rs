//! The charts judged by Helm itself: it makes the same objects of them as we do, and refuses the same mistakes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use document::{Check, Report};
use kubernetes::object::crds;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Value, json};

/// `helm template` asks no cluster; charts that need a version are told one.
const VERSION: [&str; 2] = ["--kube-version", "1.34.0"];

/// Not the default, so that no name stands in a template by itself.
const NAMESPACE: &str = "mesh-system";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Helm without a cluster.
fn helm(arguments: &[&str]) -> Output {
    program().args(arguments).args(VERSION).output().unwrap()
}

/// Helm; built when it is not in the cache.
fn program() -> Command {
    let tools = Command::new(workspace().join("hack/tools.sh")).arg("helm").output().unwrap();
    assert!(tools.status.success(), "{}", String::from_utf8_lossy(&tools.stderr));
    let told = String::from_utf8(tools.stdout).unwrap();
    let path = told.trim().strip_prefix("helm=").unwrap();
    let mut command = Command::new(path);
    command.current_dir(workspace());
    command
}

fn culvert(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert")).args(arguments).output().unwrap()
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Any document.
#[derive(Deserialize)]
#[serde(transparent)]
struct Anything(Value);

impl Check for Anything {
    fn check(&self, _: &mut Report) {}
}

impl JsonSchema for Anything {
    fn schema_name() -> Cow<'static, str> {
        "Anything".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}

/// The objects of a text of many, by kind, namespace and name. None twice.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for part in format!("\n{text}").split("\n---\n") {
        if part.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        let object = document::parse::<Anything>("rendered", part).unwrap_or_else(|e| panic!("{e}\n{part}")).0;
        let name = format!("{} {} {}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]);
        assert!(found.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    found
}

const EVERYTHING: &str = r#"
image: {repository: registry.example.org/mesh, tag: v1-x, pullPolicy: Always, pullSecrets: [one, two]}
mesh:
  trustDomain: example.org
  clusterId: east
  network: net-1
  rootNamespace: policies
  podCIDRs: [10.244.0.0/16, "fd00:10::/64"]
  sameNode: direct
  dns: {enabled: false}
  excludedNamespaces: []
ca:
  replicas: 3
  resources: {requests: {cpu: 0.5, memory: 1Gi}, limits: {cpu: 2, memory: 2000000000}}
  secretName: own
  keepSecret: true
  certificateLifetime: 1h
  trustedNodeAccounts: [istio-system/ztunnel]
waypoint:
  automatic: true
  image: registry.example.org/wp:1
  replicas: 4
  autoscaling: {enabled: true, minReplicas: 3, maxReplicas: 30, targetCpu: 55}
  resources: {limits: {cpu: 2, memory: 1Gi}}
  drainSeconds: 300
  workers: 2
  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname}]}}
  nodeSelector: {pool: mesh}
  tolerations: [{key: "<a>", operator: Exists}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
  priorityClassName: system-cluster-critical
  podAnnotations: {a: "b: c"}
  podLabels: {team: mesh}
ztunnel:
  workers: 2
  drainSeconds: 86400
  podAnnotations: {example.org/a: "yes", b: "a: b # c", c: '"<&>"', d: "1"}
node: {kubeletPort: 20250, proxyAccounts: [istio-system/ztunnel], cgroupRoot: "/sys/fs/cgroup/${NODE_NAME}"}
compat: {ownIstioNames: never}
networkPolicies: {enabled: true}
monitoring: {podMonitor: {enabled: true}, prometheusRule: {enabled: true}}
tracing: {endpoint: "http://collector:4317/?a=<1>&b=2", sampling: 0.00001}
logLevel: info,hbone=debug
"#;

const ONE_REPLICA: &str = "ca: {replicas: 1}\ncontrol: {replicas: 1}\ntracing: {endpoint: 'http://c', sampling: 1.0}\n";

#[test]
#[ignore = "needs helm, which hack/tools.sh builds; hack/cluster-test.sh runs it"]
fn helm_and_culvert_make_the_same_objects() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (everything, one) = (file("everything.yaml", EVERYTHING), file("one.yaml", ONE_REPLICA));
    let cases: [&[&str]; 7] = [
        &[],
        &["-f", &everything],
        &["-f", &one],
        &["-f", &everything, "-f", &one, "--set", "mesh.podCIDRs={10.0.0.0/8},logLevel=warn"],
        &["--set", "ca.replicas=1,control.replicas=1,ztunnel.workers=4,ztunnel.drainSeconds=30"],
        &["--set", "waypoint.deploy=false,tracing.endpoint=http://c:4317"],
        &["--set", r"ztunnel.podAnnotations.example\.org/x=a\,b,mesh.excludedNamespaces={kube-system,x}"],
    ];
    let mut counts = Vec::new();
    for case in cases {
        let theirs = [&["template", "culvert", "manifests/culvert", "--namespace", NAMESPACE], case].concat();
        let theirs = objects(&good(&helm(&theirs)));
        let ours = [&["manifest", "generate", "--managed-by", "Helm", "--namespace", NAMESPACE], case].concat();
        let ours = objects(&good(&culvert(&ours)));
        let names = |of: &BTreeMap<String, Value>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs), "{case:?}");
        for (name, object) in &theirs {
            assert_eq!(&ours[name], object, "{name} with {case:?}");
        }
        counts.push(ours.len());
    }
    assert!(counts[1] > counts[0] && counts[2] == counts[0] - 2, "{counts:?}");
}

#[test]
#[ignore = "needs helm, which hack/tools.sh builds; hack/cluster-test.sh runs it"]
fn helm_finds_no_fault_with_the_charts() {
    for chart in ["manifests/culvert", "manifests/culvert-crds"] {
        good(&helm(&["lint", "--strict", chart]));
    }
}

#[test]
#[ignore = "needs helm, which hack/tools.sh builds; hack/cluster-test.sh runs it"]
fn helm_refuses_the_mistakes_that_culvert_refuses() {
    for (setting, named) in [
        ("mesh.trustdomain=x", "trustdomain"),
        ("ca.replicas=many", "replicas"),
        ("mesh.sameNode=clear", "sameNode"),
        ("node.kubeletPort=70000", "kubeletPort"),
        ("nodes.kubeletPort=1", "nodes"),
    ] {
        let theirs = helm(&["template", "culvert", "manifests/culvert", "--set", setting]);
        let told = String::from_utf8_lossy(&theirs.stderr).into_owned();
        assert!(!theirs.status.success() && told.contains(named), "{setting}: {told}");
        let ours = culvert(&["manifest", "generate", "--set", setting]);
        assert!(!ours.status.success(), "{setting}");
    }
    let theirs = helm(&["template", "culvert-crds", "manifests/culvert-crds", "--set", "image.registry=x"]);
    assert!(!theirs.status.success() && String::from_utf8_lossy(&theirs.stderr).contains("registry"));
}

#[test]
#[ignore = "needs helm, which hack/tools.sh builds; hack/cluster-test.sh runs it"]
fn helm_makes_the_definitions_that_culvert_makes() {
    let text = good(&helm(&["template", "culvert-crds", "manifests/culvert-crds", "--namespace", NAMESPACE]));
    let mut theirs = objects(&text);
    theirs.retain(|_, object| object["kind"] == "CustomResourceDefinition");
    for definition in crds() {
        let mut wanted = serde_json::to_value(&definition).unwrap();
        wanted["apiVersion"] = json!("apiextensions.k8s.io/v1");
        wanted["kind"] = json!("CustomResourceDefinition");
        wanted["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("Helm");
        wanted["metadata"]["labels"]["app.kubernetes.io/part-of"] = json!("culvert");
        wanted["metadata"]["annotations"]["helm.sh/resource-policy"] = json!("keep");
        let name = format!("{} null {}", wanted["kind"], wanted["metadata"]["name"]);
        assert_eq!(theirs.remove(&name), Some(wanted), "{name}");
    }
    assert!(theirs.is_empty(), "{:?}", theirs.keys());
}

/// What of an API server `helm install --dry-run=server` asks for: what there is, and the definitions.
fn serve(stream: &TcpStream, definitions: &BTreeMap<&str, Value>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let path = first.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
    let groups = ["apiextensions.k8s.io", "batch", "rbac.authorization.k8s.io"];
    let resource = |name: &str, kind: &str| {
        let in_namespace = !kind.starts_with('C');
        json!({"name": name, "kind": kind, "namespaced": in_namespace, "verbs": ["get", "list"]})
    };
    let resources = |version: &str, list: &[(&str, &str)]| {
        let list: Vec<Value> = list.iter().map(|(name, kind)| resource(name, kind)).collect();
        json!({"kind": "APIResourceList", "groupVersion": version, "resources": list})
    };
    let answer = match &*path {
        "/version" => json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0"}),
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => {
            let version = |g: &str| json!({"groupVersion": format!("{g}/v1"), "version": "v1"});
            let group = |g: &str| json!({"name": g, "versions": [version(g)], "preferredVersion": version(g)});
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.map(group)})
        }
        "/api/v1" => resources("v1", &[("serviceaccounts", "ServiceAccount"), ("secrets", "Secret")]),
        "/apis/apiextensions.k8s.io/v1" => {
            resources("apiextensions.k8s.io/v1", &[("customresourcedefinitions", "CustomResourceDefinition")])
        }
        "/apis/rbac.authorization.k8s.io/v1" => resources(
            "rbac.authorization.k8s.io/v1",
            &[("clusterroles", "ClusterRole"), ("clusterrolebindings", "ClusterRoleBinding")],
        ),
        "/apis/batch/v1" => resources("batch/v1", &[("jobs", "Job")]),
        // Helm's records of releases.
        path if path.ends_with("/secrets") => json!({"kind": "SecretList", "apiVersion": "v1", "items": []}),
        path => match path.rsplit_once("/customresourcedefinitions/").and_then(|(_, name)| definitions.get(name)) {
            Some(definition) => definition.clone(),
            None => {
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
            }
        },
    };
    let (status, body) = (answer["code"].as_u64().unwrap_or(200), answer.to_string());
    let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-type: application/json\r\n");
    // Who has gone away does not wait for an answer.
    write!(&mut &*stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).ok();
}

#[test]
#[ignore = "needs helm, which hack/tools.sh builds; hack/cluster-test.sh runs it"]
fn helm_leaves_definitions_of_others_alone() {
    let of = |name: &str, labels: Value, annotations: Value| {
        let mut metadata = json!({"name": name, "labels": labels, "annotations": annotations});
        // An API server leaves out what is empty.
        metadata.as_object_mut().unwrap().retain(|_, value| *value != json!({}));
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata})
    };
    let release = |name: &str, namespace: &str| json!({"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace});
    let helms = json!({"app.kubernetes.io/managed-by": "Helm"});
    let ours = "workloadentries.networking.istio.io";
    let definitions = [
        ("gateways.gateway.networking.k8s.io", json!({}), json!({})),
        ("gatewayclasses.gateway.networking.k8s.io", json!({"app.kubernetes.io/managed-by": "culvert"}), json!({})),
        ("serviceentries.networking.istio.io", helms.clone(), release("istio-base", "istio-system")),
        ("peerauthentications.security.istio.io", helms.clone(), release("culvert-crds", "other")),
        (ours, helms, release("culvert-crds", NAMESPACE)),
    ];
    let definitions: BTreeMap<&str, Value> = definitions.map(|(n, l, a)| (n, of(n, l, a))).into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let there: Vec<String> = definitions.keys().map(|name| (*name).to_owned()).collect();
    // Ends with the test's process.
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| serve(&stream, &definitions)));

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kubeconfig");
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "x", "users": [{"name": "x", "user": {}}],
        "clusters": [{"name": "x", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]});
    std::fs::write(&config, text.to_string()).unwrap();
    let mut helm = program();
    helm.args(["install", "culvert-crds", "manifests/culvert-crds", "--namespace", NAMESPACE, "--dry-run=server"]);
    helm.arg("--disable-openapi-validation").env("KUBECONFIG", &config).env("HOME", folder.path());
    let told = good(&helm.output().unwrap());
    for name in crds().iter().filter_map(|d| d.metadata.name.as_deref()) {
        let wanted = name == ours || !there.iter().any(|t| t == name);
        assert_eq!(told.contains(&format!("\n  name: {name}\n")), wanted, "{name}");
    }
}
