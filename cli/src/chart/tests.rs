use super::*;

const RELEASE: Release<'_> = Release { name: "culvert", namespace: "culvert-system", service: "Helm" };

fn settings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

const NO_FILES: [&str; 0] = [];

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
fn the_schema_in_the_chart_is_that_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/culvert/values.schema.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(file, schema(), "run `culvert manifest schema > manifests/culvert/values.schema.json`");
    let defaults = values(&NO_FILES, &[]).unwrap();
    let again = serde_json::to_value(serde_json::from_value::<Values>(defaults.clone()).unwrap()).unwrap();
    assert_eq!(again, defaults, "values.yaml names every key");
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
