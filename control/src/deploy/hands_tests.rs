use super::*;

#[test]
fn a_document_is_as_wanted_until_any_of_it_changes() {
    let document = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "annotations": {"x": "y"}},
                          "spec": {"type": "ClusterIP", "ports": [{"port": 1}]}});
    let wanted = stamped(&document);
    // As the API server gives it back: more fields, and without the kind in a list.
    let mut there = wanted.clone();
    there.as_object_mut().unwrap().remove("kind");
    there["spec"]["clusterIP"] = json!("10.0.0.1");
    there["spec"]["ports"][0]["protocol"] = json!("TCP");
    assert!(is_so(&there, &wanted));
    let mut other = document.clone();
    other["metadata"]["annotations"].as_object_mut().unwrap().remove("x");
    assert!(!is_so(&there, &stamped(&other)), "a field that is not wanted any more");
    there["spec"]["type"] = json!("NodePort");
    assert!(!is_so(&there, &wanted), "changed by hand");
}

#[test]
fn a_scalers_number_does_not_count_as_a_change() {
    let of = |replicas| json!({"metadata": {"name": "a"}, "spec": {"replicas": replicas, "x": 1}});
    let digest = |replicas: i64| stamped(&of(replicas))["metadata"]["annotations"][APPLIED].clone();
    assert_eq!(digest(1), digest(2));
    assert!(!is_so(&stamped(&of(1)), &stamped(&of(2))), "it is set all the same");
}
