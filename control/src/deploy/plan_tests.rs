use std::collections::BTreeMap as Map;

use super::*;

fn values(more: &str) -> Waypoint {
    let text = format!("certificate: {{ca: {{}}}}\nwaypoint:\n  image: culvert.dev/waypoint:1\n{more}");
    let config: crate::config::Config = document::parse("control.yaml", &text).unwrap_or_else(|e| panic!("{e}"));
    config.waypoint.unwrap()
}

fn gateway(more: Value) -> api::Gateway {
    let mut object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "waypoint", "namespace": "shop", "uid": "u-1"},
        "spec": {"gatewayClassName": "culvert-waypoint",
                 "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
    });
    merge::merge(&mut object, &more, "").unwrap();
    serde_json::from_value(object).unwrap()
}

fn overlay(data: &[(&str, &str)]) -> Overlay {
    let data: Map<String, String> = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Overlay::read("ConfigMap shop/options", &data).unwrap()
}

fn planned(
    more: Value,
    settings: &str,
    replicas: Option<i64>,
    overlays: &[Overlay],
) -> Result<Map<String, Value>, String> {
    let (values, mesh) = (values(settings), Mesh::default());
    let around = Around { values: &values, mesh: &mesh, replicas, overlays };
    let plan = plan(&gateway(more), &around).map_err(|f| super::super::fault::all(&f))?;
    Ok(plan.objects.into_iter().map(|o| (o["kind"].as_str().unwrap().to_owned(), o)).collect())
}

fn at<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    object.pointer(pointer).unwrap_or(&Value::Null)
}

#[test]
fn a_gateway_gets_what_istio_would_make() {
    let made = planned(json!({}), "", None, &[]).unwrap();
    assert_eq!(made.keys().collect::<Vec<_>>(), ["Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"]);
    for object in made.values() {
        assert_eq!(
            (at(object, "/metadata/name"), at(object, "/metadata/namespace")),
            (&json!("waypoint"), &json!("shop"))
        );
        let owner = at(object, "/metadata/ownerReferences/0");
        assert_eq!(
            (&owner["kind"], &owner["uid"], &owner["controller"]),
            (&json!("Gateway"), &json!("u-1"), &json!(true))
        );
        let labels = at(object, "/metadata/labels");
        for (key, value) in [
            ("gateway.networking.k8s.io/gateway-name", "waypoint"),
            ("gateway.networking.k8s.io/gateway-class-name", "culvert-waypoint"),
            ("gateway.istio.io/managed", "istio.io-mesh-controller"),
        ] {
            assert_eq!(labels[key], value, "{object}");
        }
    }
    let service = &made["Service"];
    let ports: Vec<_> =
        at(service, "/spec/ports").as_array().unwrap().iter().map(|p| (p["name"].clone(), p["port"].clone())).collect();
    assert_eq!(ports, [(json!("status-port"), json!(15021)), (json!("mesh"), json!(15008))]);
    assert_eq!(at(service, "/spec/type"), "ClusterIP");
    assert_eq!(at(service, "/spec/ipFamilyPolicy"), "PreferDualStack");
    assert_eq!(at(service, "/metadata/annotations")["networking.istio.io/traffic-distribution"], "PreferClose");
    assert_eq!(at(service, "/spec/selector"), &json!({GATEWAY_NAME: "waypoint"}));
}

#[test]
fn the_pod_has_no_rights_and_is_not_captured() {
    let made = planned(json!({}), "", None, &[]).unwrap();
    let template = at(&made["Deployment"], "/spec/template");
    for (key, value) in [
        ("istio.io/dataplane-mode", "none"),
        ("sidecar.istio.io/inject", "false"),
        ("gateway.networking.k8s.io/gateway-name", "waypoint"),
        ("gateway.istio.io/managed", "istio.io-mesh-controller"),
    ] {
        assert_eq!(at(template, "/metadata/labels")[key], value);
    }
    assert_eq!(at(template, "/metadata/annotations")["prometheus.io/port"], "15020");
    let spec = at(template, "/spec");
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(at(spec, "/securityContext/runAsUser"), 1337);
    assert_eq!(at(spec, "/securityContext/seccompProfile/type"), "RuntimeDefault");
    let container = at(spec, "/containers/0");
    assert_eq!(at(container, "/securityContext/capabilities"), &json!({"drop": ["ALL"]}));
    assert_eq!(at(container, "/securityContext/readOnlyRootFilesystem"), true);
    assert_eq!(at(container, "/readinessProbe/httpGet"), &json!({"path": "/healthz/ready", "port": 15021}));
    assert_eq!(spec["terminationGracePeriodSeconds"], 70);
    assert_eq!(at(&made["Deployment"], "/spec/strategy/rollingUpdate/maxUnavailable"), 0);
    assert_eq!(at(spec, "/volumes/1/projected/sources/0/serviceAccountToken/audience"), "istio-ca");
    assert_eq!(at(spec, "/topologySpreadConstraints/0/labelSelector/matchLabels"), &json!({GATEWAY_NAME: "waypoint"}));
    // The file that the pod sees is the annotation.
    let item = at(spec, "/volumes/0/downwardAPI/items/0");
    assert_eq!(at(item, "/fieldRef/fieldPath"), &json!(format!("metadata.annotations['{}']", pod::CONFIG)));
    let config = at(template, "/metadata/annotations")[pod::CONFIG].as_str().unwrap();
    for line in ["gateway: \"waypoint\"", "  address: \"https://culvert-ca.culvert-system.svc:15012\"", "drain: 60s"] {
        assert!(config.lines().any(|l| l == line), "{line}: {config}");
    }
}

#[test]
fn settings_of_the_operator_reach_the_objects() {
    let settings = "  replicas: 1\n  pullPolicy: Never\n  pullSecrets: [one]\n  workers: 3\n  resources: {requests: {cpu: 1}}\n  \
                    placement: {priorityClass: high, nodeSelector: {pool: mesh}, tolerations: [{operator: Exists}],\n    \
                    affinity: {nodeAffinity: {}}, topologySpreadConstraints: [{maxSkew: 2, topologyKey: zone}]}\n  \
                    podAnnotations: {a: b}\n  podLabels: {c: d}\n  otlp: {endpoint: 'http://c:4317', sampling: 0.5}\n";
    let made = planned(json!({}), settings, None, &[]).unwrap();
    assert!(!made.contains_key("PodDisruptionBudget"), "one pod needs no budget");
    let template = at(&made["Deployment"], "/spec/template");
    let spec = at(template, "/spec");
    assert_eq!(at(&made["Deployment"], "/spec/replicas"), 1);
    for (pointer, wanted) in [
        ("/imagePullSecrets", json!([{"name": "one"}])),
        ("/priorityClassName", json!("high")),
        ("/nodeSelector", json!({"kubernetes.io/os": "linux", "pool": "mesh"})),
        ("/tolerations", json!([{"operator": "Exists"}])),
        ("/containers/0/imagePullPolicy", json!("Never")),
        ("/containers/0/resources", json!({"requests": {"cpu": 1}})),
        ("/topologySpreadConstraints/0/topologyKey", json!("zone")),
    ] {
        assert_eq!(at(spec, pointer), &wanted, "{pointer}");
    }
    let (labels, annotations) = (at(template, "/metadata/labels"), at(template, "/metadata/annotations"));
    assert_eq!((&labels["c"], &annotations["a"]), (&json!("d"), &json!("b")));
    let config = annotations[pod::CONFIG].as_str().unwrap();
    assert!(
        config.contains("workers: 3\n") && config.contains("endpoint: \"http://c:4317\", sampling: 0.5"),
        "{config}"
    );
}

#[test]
fn a_scaler_is_made_and_its_number_repeated() {
    let on = "  autoscaling: {enabled: true, minReplicas: 3, maxReplicas: 9}\n";
    let made = planned(json!({}), on, None, &[]).unwrap();
    assert_eq!(at(&made["HorizontalPodAutoscaler"], "/spec/maxReplicas"), 9);
    assert_eq!(at(&made["Deployment"], "/spec/replicas"), 3);
    let made = planned(json!({}), on, Some(7), &[]).unwrap();
    assert_eq!(at(&made["Deployment"], "/spec/replicas"), 7);
    let made = planned(json!({}), "", Some(7), &[]).unwrap();
    assert_eq!(at(&made["Deployment"], "/spec/replicas"), 2, "without one the number is ours");
    let by_overlay = overlay(&[("horizontalPodAutoscaler", "spec: {maxReplicas: 4}\n")]);
    let made = planned(json!({}), "", None, &[by_overlay]).unwrap();
    assert_eq!(at(&made["HorizontalPodAutoscaler"], "/spec/maxReplicas"), 4);
}

#[test]
fn a_network_policy_lets_tunnels_scrapes_and_probes_in() {
    assert!(!planned(json!({}), "", None, &[]).unwrap().contains_key("NetworkPolicy"));
    let made = planned(json!({}), "  networkPolicy: true\n", None, &[]).unwrap();
    let spec = at(&made["NetworkPolicy"], "/spec");
    assert_eq!(spec["podSelector"], json!({"matchLabels": {GATEWAY_NAME: "waypoint"}}));
    assert_eq!(spec["policyTypes"], json!(["Ingress"]), "what it may call is not told");
    let port = |port: u16| json!({"port": port, "protocol": "TCP"});
    assert_eq!(spec["ingress"], json!([{"ports": [port(15008), port(15020), port(15021)]}]));
}

#[test]
fn the_gateway_names_and_marks_its_objects() {
    let more = json!({
        "metadata": {"annotations": {"gateway.istio.io/name-override": "edge", "gateway.istio.io/service-account": "edge-sa",
                                     "networking.istio.io/service-type": "NodePort"}},
        "spec": {"infrastructure": {"labels": {"team": "shop", "istio.io/dataplane-mode": "ambient"},
                                    "annotations": {"cost": "1"}}},
    });
    let made = planned(more, "", None, &[]).unwrap();
    assert_eq!(at(&made["Service"], "/metadata/name"), "edge");
    assert_eq!(at(&made["ServiceAccount"], "/metadata/name"), "edge-sa");
    assert_eq!(at(&made["Deployment"], "/spec/template/spec/serviceAccountName"), "edge-sa");
    assert_eq!(at(&made["Service"], "/spec/type"), "NodePort");
    assert_eq!(at(&made["Service"], "/spec/selector"), &json!({GATEWAY_NAME: "waypoint"}));
    for object in made.values() {
        assert_eq!(at(object, "/metadata/labels/team"), "shop");
        assert_eq!(at(object, "/metadata/annotations/cost"), "1");
    }
    let pod = at(&made["Deployment"], "/spec/template/metadata");
    assert_eq!((at(pod, "/labels/team"), at(pod, "/annotations/cost")), (&json!("shop"), &json!("1")));
}

#[test]
fn overlays_are_laid_over_the_classs_first() {
    let class = overlay(&[("deployment", "spec: {replicas: 5, minReadySeconds: 3}\n")]);
    let own = overlay(&[
        (
            "deployment",
            "spec:\n  replicas: 6\n  template: {spec: {containers: [{name: istio-proxy, resources: {limits: {cpu: 2}}}]}}\n",
        ),
        ("service", "metadata: {annotations: {x: y}}\n"),
        ("podDisruptionBudget", "spec: {maxUnavailable: null, minAvailable: 1}\n"),
    ]);
    let made = planned(json!({}), "", None, &[class, own]).unwrap();
    let deployment = &made["Deployment"];
    assert_eq!((at(deployment, "/spec/replicas"), at(deployment, "/spec/minReadySeconds")), (&json!(6), &json!(3)));
    let container = at(deployment, "/spec/template/spec/containers/0");
    assert_eq!(
        (&container["image"], at(container, "/resources/limits/cpu")),
        (&json!("culvert.dev/waypoint:1"), &json!(2))
    );
    assert_eq!(at(&made["Service"], "/metadata/annotations/x"), "y");
    let budget = at(&made["PodDisruptionBudget"], "/spec");
    assert_eq!((&budget["minAvailable"], budget.get("maxUnavailable")), (&json!(1), None));
}

#[test]
fn every_mistake_of_a_gateway_is_named() {
    let more =
        json!({"metadata": {"name": "a.b", "annotations": {"networking.istio.io/service-type": "ExternalName"}}});
    let bad = overlay(&[
        ("deployment", "metadata: {name: other}\nspec: {selector: {matchLabels: {a: b}}}\n"),
        ("service", "metadata: {labels: {gateway.istio.io/managed: null}}\nspec: {ports: [{name: x}]}\n"),
    ]);
    let told = planned(more, "", None, &[bad]).unwrap_err();
    for named in [
        "metadata.name: \"a.b\" cannot be the name of a Service",
        "metadata.annotations[networking.istio.io/service-type]: \"ExternalName\"",
        "ConfigMap shop/options, key deployment.metadata.name",
        "key deployment.spec.selector",
        "key service.spec.ports[0]: the item has no port",
    ] {
        assert!(told.contains(named), "{named}: {told}");
    }
    let taken = overlay(&[("service", "metadata: {labels: {gateway.istio.io/managed: null}}\n")]);
    let told = planned(json!({}), "", None, &[taken]).unwrap_err();
    assert!(told.contains("key service.metadata.labels: a label is taken that must stay"), "{told}");
    let long =
        json!({"metadata": {"name": "x".repeat(64), "annotations": {"gateway.istio.io/name-override": "short"}}});
    assert!(planned(long, "", None, &[]).unwrap_err().contains("longer than a label's value"));
}
