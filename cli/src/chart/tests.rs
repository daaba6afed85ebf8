use super::*;

const RELEASE: Release<'_> = Release { name: "culvert", namespace: "culvert-system", service: "Helm" };

fn settings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

const NO_FILES: [&str; 0] = [];

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");

fn manifest(path: &str) -> String {
    std::fs::read_to_string(Path::new(MANIFESTS).join(path)).unwrap()
}

#[test]
fn the_chart_renders_with_its_defaults_and_with_everything_on() {
    let defaults = values(&NO_FILES, &[]).unwrap();
    let all = values(
        &NO_FILES,
        &settings(&[
            "networkPolicies.enabled=true",
            "monitoring.podMonitor.enabled=true",
            "monitoring.prometheusRule.enabled=true",
            "tracing.endpoint=http://collector:4317",
            "ca.replicas=1",
            "mesh.podCIDRs={10.244.0.0/16,fd00::/48}",
            "image.pullSecrets={registry}",
            "ztunnel.workers=2",
        ]),
    )
    .unwrap();
    let some = objects(&RELEASE, &defaults).unwrap();
    let more = objects(&RELEASE, &all).unwrap();
    assert!(more.len() > some.len());
    for object in some.iter().chain(&more) {
        for field in ["/apiVersion", "/kind", "/metadata/name", "/metadata/labels/app.kubernetes.io~1part-of"] {
            assert!(object.pointer(field).is_some_and(Value::is_string), "{field} of {object}");
        }
    }
    let names = |objects: &[Value], kind: &str| {
        objects.iter().filter(|o| o["kind"] == kind).map(|o| o["metadata"]["name"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&some, "PodDisruptionBudget").len(), 2);
    assert_eq!(names(&more, "PodDisruptionBudget").len(), 1, "one replica needs no budget");
}

#[test]
fn no_program_but_the_agent_is_privileged_and_nobody_reads_all_secrets() {
    let objects = objects(&RELEASE, &values(&NO_FILES, &[]).unwrap()).unwrap();
    for object in &objects {
        let privileged = object.to_string().contains("\"privileged\":true");
        assert_eq!(
            privileged,
            object["metadata"]["name"] == "culvert-node" && object["kind"] == "DaemonSet",
            "{object}"
        );
        if object["kind"] == "ClusterRole" {
            assert!(!object.to_string().contains("\"secrets\""), "{object}");
            assert!(!object.to_string().contains("\"*\""), "{object}");
        }
    }
}

#[test]
fn typos_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.yaml");
    std::fs::write(&file, "mesh:\n  trustdomain: x\nca:\n  replicas: many\n").unwrap();
    let mistakes = values(&[&file], &[]).unwrap_err().to_string();
    for wanted in ["mine.yaml:2", "trustDomain", "mine.yaml:4", "replicas"] {
        assert!(mistakes.contains(wanted), "{wanted}: {mistakes}");
    }
    assert!(values(&NO_FILES, &settings(&["mesh.trustdomain=x"])).unwrap_err().to_string().contains("trustdomain"));
    assert!(values(&NO_FILES, &settings(&["mesh"])).is_err());
}

#[test]
fn texts_that_a_program_would_refuse_are_refused_before_it_is_installed() {
    for bad in [
        "ca.certificateLifetime=24x",
        "ca.certificateLifetime=",
        "node.leaveDeadline=5m1h",
        "mesh.podCIDRs={10.0.0/8}",
        "mesh.podCIDRs={10.0.0.0/33}",
        "mesh.podCIDRs={10.0.0.1/8}",
        "mesh.podCIDRs={fd00::1::/64}",
        "mesh.clusterDomain=cluster local",
        "mesh.trustDomain=a/b",
        "mesh.excludedNamespaces={Kube}",
        "ca.trustedNodeAccounts={ztunnel}",
        "node.bpffs=sys",
        "node.kubeletPort=0",
        "tracing.sampling=2",
        "image.tag=a b",
    ] {
        let (key, _) = bad.split_once('=').unwrap();
        let error = values(&NO_FILES, &settings(&[bad])).unwrap_err().to_string();
        assert!(error.contains(key), "{bad}: {error}");
    }
    for good in [
        "ca.certificateLifetime=1h30m",
        "node.leaveDeadline=500ms",
        "mesh.podCIDRs={10.244.0.0/16,fd00::/48}",
        "mesh.clusterDomain=k8s.example.org",
        "node.leaveDeadline=",
        "image.repository=localhost:5000/mesh",
    ] {
        values(&NO_FILES, &settings(&[good])).unwrap_or_else(|e| panic!("{good}: {e}"));
    }
}

#[test]
fn texts_that_look_like_numbers_stay_texts_and_the_domain_reaches_every_program() {
    let mut some = values(&NO_FILES, &settings(&["mesh.clusterDomain=example.org"])).unwrap();
    // `helm --set-string` gives such texts.
    for path in ["/mesh/clusterId", "/mesh/trustDomain", "/mesh/network", "/mesh/rootNamespace", "/ca/secretName"] {
        *some.pointer_mut(path).unwrap() = json!("1");
    }
    some["image"]["pullSecrets"] = json!(["2"]);
    let release = Release { namespace: "3", ..RELEASE };
    let all = objects(&release, &some).unwrap();
    for object in &all {
        let namespace = &object["metadata"]["namespace"];
        assert!(namespace.is_null() || namespace == "3" || namespace == "kube-node-lease", "{object}");
        assert!(object["imagePullSecrets"].is_null() || object["imagePullSecrets"][0]["name"] == "2", "{object}");
    }
    let config = |name: &str, key: &str| {
        let map = all.iter().find(|o| o["kind"] == "ConfigMap" && o["metadata"]["name"] == name).unwrap();
        parse(name, map["data"][key].as_str().unwrap()).unwrap()
    };
    let (ca, control, ztunnel) =
        (config("culvert-ca", "ca.yaml"), config("culvert-control", "control.yaml"), config("ztunnel", "ztunnel.yaml"));
    assert_eq!((&ca["trustDomain"], &ca["clusters"]), (&json!("1"), &json!(["1"])));
    assert_eq!(ca["authority"]["secret"], json!({"namespace": "3", "name": "1"}));
    assert_eq!((&control["mesh"]["clusterId"], &control["mesh"]["rootNamespace"]), (&json!("1"), &json!("1")));
    assert_eq!((&ztunnel["cluster"], &ztunnel["network"]), (&json!("1"), &json!("1")));
    assert_eq!(config("culvert-node", "node.yaml")["kubernetes"]["systemNamespace"], json!("3"));
    assert_eq!(
        (&control["mesh"]["clusterDomain"], &ztunnel["dns"]["clusterDomain"]),
        (&json!("example.org"), &json!("example.org"))
    );
}

#[test]
fn what_is_made_of_the_types_is_up_to_date() {
    let file: Value = serde_json::from_str(&manifest("culvert/values.schema.json")).unwrap();
    assert_eq!(file, schema(), "run `culvert manifest schema > manifests/culvert/values.schema.json`");
    let file: Value = serde_json::from_str(&manifest("culvert-crds/values.schema.json")).unwrap();
    let remedy = "run `culvert manifest schema --definitions > manifests/culvert-crds/values.schema.json`";
    assert_eq!(file, definitions_schema(), "{remedy}");
    let remedy = "run `culvert manifest definitions > manifests/culvert-crds/templates/crds.yaml`";
    assert!(manifest("culvert-crds/templates/crds.yaml") == definitions_template().unwrap(), "{remedy}");
    let defaults = values(&NO_FILES, &[]).unwrap();
    let again = serde_json::to_value(serde_json::from_value::<Values>(defaults.clone()).unwrap()).unwrap();
    assert_eq!(again, defaults, "values.yaml names every key");
    let defaults = parse("values.yaml", &manifest("culvert-crds/values.yaml")).unwrap();
    let again = serde_json::to_value(serde_json::from_value::<DefinitionValues>(defaults.clone()).unwrap()).unwrap();
    assert_eq!(again, defaults, "values.yaml of culvert-crds names every key");
}

#[test]
fn the_versions_of_the_charts_are_ours() {
    for chart in ["culvert", "culvert-crds"] {
        let chart = parse("Chart.yaml", &manifest(&format!("{chart}/Chart.yaml"))).unwrap();
        assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(VERSION), &json!(VERSION)));
    }
}

#[test]
fn the_definitions_rights_are_those_that_their_removal_needs() {
    let text = manifest("culvert-crds/templates/remove.yaml");
    for (group, plural) in definitions::kinds() {
        assert!(text.contains(&format!("\n  - {plural}.{group}\n")), "delete {plural}.{group}");
        let rule = text.split("- apiGroups: ").find(|rule| rule.starts_with(&format!("[{group}]"))).unwrap();
        let resources = rule.split("verbs:").next().unwrap();
        assert!(resources.contains(&plural), "list {plural} of {group}");
    }
}

/// Every value, as (JSON pointer, another value).
fn leaves(path: &str, value: &Value) -> Vec<(String, Value)> {
    let below = |key: &str| format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(map) if !map.is_empty() => map.iter().flat_map(|(key, v)| leaves(&below(key), v)).collect(),
        Value::Object(_) => vec![(path.to_owned(), json!({"added": "x"}))],
        Value::Array(items) => vec![(path.to_owned(), [&items[..], &[json!("added/x")]].concat().into())],
        Value::Bool(b) => vec![(path.to_owned(), (!b).into())],
        Value::Number(n) => vec![(path.to_owned(), n.as_i64().map_or(json!(0.5), |n| (n + 1).into()))],
        _ => vec![(path.to_owned(), json!("always"))],
    }
}

fn changed(mut values: Value, path: &str, to: Value) -> Value {
    *values.pointer_mut(path).unwrap() = to;
    values
}

/// By name of the program: its configuration, and the text by which its pods are replaced when that changes.
fn programs(values: &Value) -> Vec<(String, Value, Value)> {
    let objects = objects(&RELEASE, values).unwrap();
    let named = |kind: &str, name: &str| {
        objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name).cloned().unwrap_or_default()
    };
    [
        ("culvert-ca", "Deployment"),
        ("culvert-control", "Deployment"),
        ("culvert-node", "DaemonSet"),
        ("ztunnel", "DaemonSet"),
    ]
    .map(|(name, kind)| {
        let sum = named(kind, name)["spec"]["template"]["metadata"]["annotations"]["culvert.dev/values"].clone();
        (name.to_owned(), named("ConfigMap", name)["data"].clone(), sum)
    })
    .to_vec()
}

#[test]
fn pods_are_replaced_exactly_when_their_configuration_changes() {
    let mut defaults = values(&NO_FILES, &[]).unwrap();
    // So that the values of tracing matter.
    defaults["tracing"]["endpoint"] = json!("http://collector:4317");
    let before = programs(&defaults);
    for (path, to) in leaves("", &defaults) {
        let after = programs(&changed(defaults.clone(), &path, to));
        for ((name, config, sum), (_, new_config, new_sum)) in before.iter().zip(&after) {
            assert!(sum.is_string() && !config.is_null(), "{name}");
            assert_eq!(config != new_config, sum != new_sum, "{path} and {name}");
        }
    }
}

#[test]
fn hooks_are_told_from_what_is_installed() {
    let all = objects(&RELEASE, &values(&NO_FILES, &[]).unwrap()).unwrap();
    let hooks: Vec<&Value> = all.iter().filter(|o| is_hook(o)).collect();
    let with =
        |kind: &str, hook: &str| hooks.iter().any(|o| o["kind"] == kind && o["metadata"]["annotations"][HOOK] == hook);
    assert!(with("Job", "pre-delete") && with("Pod", "test"), "{hooks:?}");
    assert!(hooks.len() < all.len());
    // A hook that Helm keeps would be in the way of the next one, and its rights would stay.
    for hook in hooks {
        let policy = hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"].as_str().unwrap();
        assert!(policy.contains("before-hook-creation"), "{hook}");
        assert!(hook["kind"] == "Pod" || policy.contains("hook-succeeded"), "{hook}");
    }
}

#[test]
fn alerts_ask_for_metrics_that_exist_and_name_a_remedy() {
    let on = settings(&["monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true"]);
    let all = objects(&RELEASE, &values(&NO_FILES, &on).unwrap()).unwrap();
    let rules = all.iter().find(|o| o["kind"] == "PrometheusRule").unwrap();
    let mut source = String::new();
    for program in ["ca/src", "control/src", "node/src", "ztunnel/src", "crates/proxy/src", "crates/telemetry/src"] {
        read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(program), &mut source);
    }
    let mut seen = 0;
    for rule in rules["spec"]["groups"][0]["rules"].as_array().unwrap() {
        for text in ["summary", "remedy"] {
            assert!(rule["annotations"][text].is_string(), "{text} of {rule}");
        }
        let words = rule["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for metric in words.filter(|w| w.starts_with("culvert_")) {
            let name = metric.strip_suffix("_total").unwrap_or(metric);
            assert!(source.contains(&format!("\"{name}\"")), "nobody counts {metric}");
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen}");
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn a_later_overlay_wins_and_lists_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.yaml");
    std::fs::write(&file, "mesh:\n  podCIDRs: [10.0.0.0/8]\n").unwrap();
    let made = values(&[&file], &settings(&["mesh.dns.enabled=false", "mesh.podCIDRs={10.1.0.0/16}"])).unwrap();
    assert_eq!(made["mesh"]["podCIDRs"], json!(["10.1.0.0/16"]));
    assert_eq!(made["mesh"]["dns"]["enabled"], json!(false));
    assert_eq!(made["mesh"]["trustDomain"], json!("cluster.local"));
}
