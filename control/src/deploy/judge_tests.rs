use super::*;

fn gateway(more: Value) -> (api::Gateway, Value) {
    let mut object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "waypoint", "namespace": "shop", "uid": "u", "generation": 4},
        "spec": {"gatewayClassName": "culvert-waypoint",
                 "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
    });
    super::super::merge::merge(&mut object, &more, "").unwrap();
    (serde_json::from_value(object.clone()).unwrap(), object)
}

fn made(ready: i64) -> Standing {
    Standing::Made(Made {
        hostname: "waypoint.shop.svc.cluster.local".into(),
        addresses: vec!["10.96.0.9".into(), "fd00::9".into()],
        ready,
        wanted: 2,
        ..Made::default()
    })
}

fn waiting() -> Standing {
    match made(2) {
        Standing::Made(made) => Standing::Made(Made { waiting: vec!["shop/cart".into()], ..made }),
        other => other,
    }
}

fn said(more: Value, standing: &Standing) -> (Wanted, Vec<String>) {
    let (gateway, there) = gateway(more);
    let wanted = judge(&gateway, &listener::judge(&gateway.spec.listeners), standing, &there, Timestamp::UNIX_EPOCH);
    let word = |c: &Condition| format!("{}={} {}", c.kind, c.truth.as_str(), c.reason);
    let words = wanted.conditions.iter().map(word).collect();
    (wanted, words)
}

fn field(wanted: &Wanted, name: &str) -> Value {
    wanted.fields.iter().find(|(n, _)| *n == name).and_then(|(_, v)| v.clone()).unwrap_or(Value::Null)
}

#[test]
fn a_gateway_is_not_programmed_while_nodes_may_go_past_it() {
    let (wanted, words) = said(json!({}), &waiting());
    // It has its addresses all the same: without them nobody would be sent to it.
    assert_eq!(words[1..3], ["AddressesAssigned=True AddressesAssigned", "Programmed=False Pending"]);
    assert!(wanted.conditions[2].message.contains("shop/cart"), "{:?}", wanted.conditions[2]);
}

#[test]
fn a_gateway_is_programmed_and_has_addresses_once_a_pod_is_ready() {
    let (wanted, words) = said(json!({}), &made(0));
    assert_eq!(
        words,
        [
            "Accepted=True Accepted",
            "AddressesAssigned=False NotAssigned",
            "Programmed=False Pending",
            "ResolvedRefs=True ResolvedRefs"
        ]
    );
    assert_eq!((wanted.generation, field(&wanted, "addresses")), (4, Value::Null));
    let (wanted, words) = said(json!({}), &made(1));
    assert_eq!(words[1..3], ["AddressesAssigned=True AddressesAssigned", "Programmed=True Programmed"]);
    assert_eq!(
        field(&wanted, "addresses"),
        json!([{"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"},
               {"type": "IPAddress", "value": "10.96.0.9"}, {"type": "IPAddress", "value": "fd00::9"}])
    );
    let listener = &field(&wanted, "listeners")[0];
    let kinds: Vec<String> = listener["conditions"].as_array().unwrap().iter().map(|c| c["type"].to_string()).collect();
    assert_eq!(kinds, ["\"Accepted\"", "\"Conflicted\"", "\"ResolvedRefs\"", "\"Programmed\""]);
    for condition in listener["conditions"].as_array().unwrap() {
        assert_eq!(condition["observedGeneration"], 4, "{condition}");
    }
    assert_eq!((&listener["attachedRoutes"], listener["supportedKinds"].as_array().unwrap().len()), (&json!(0), 4));
}

#[test]
fn addresses_are_never_withdrawn() {
    let before = json!({"status": {"addresses": [{"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"}]}});
    let (wanted, words) = said(before.clone(), &made(0));
    assert_eq!(words[2], "Programmed=False NoResources");
    assert_eq!(field(&wanted, "addresses").as_array().unwrap().len(), 3);
    for standing in [Standing::Refused("no".into()), Standing::Mistaken(vec![Fault::new("a", "b", "c")])] {
        let (wanted, words) = said(before.clone(), &standing);
        assert_eq!(field(&wanted, "addresses"), before["status"]["addresses"]);
        assert_eq!(words[2], "Programmed=False Invalid");
    }
}

#[test]
fn mistakes_are_said_where_they_belong() {
    let (wanted, words) =
        said(json!({}), &Standing::Mistaken(vec![Fault::new("metadata.name", "too long", "shorten")]));
    assert_eq!((&*words[0], &*words[3]), ("Accepted=False InvalidParameters", "ResolvedRefs=False InvalidParameters"));
    assert!(wanted.conditions[0].message.contains("metadata.name: too long; shorten"));

    let (_, words) = said(json!({"spec": {"addresses": [{"value": "10.0.0.1"}]}}), &made(1));
    assert_eq!((&*words[0], &*words[2]), ("Accepted=False UnsupportedAddress", "Programmed=False Invalid"));
    let (_, words) = said(json!({"spec": {"addresses": [{"type": "IPAddress"}]}}), &made(1));
    assert_eq!(words[0], "Accepted=True Accepted", "any address of a type");

    let web = json!({"name": "web", "port": 80, "protocol": "HTTP"});
    let both = json!({"spec": {"listeners": [web, {"name": "mesh", "port": 15008, "protocol": "HBONE"}]}});
    let (wanted, words) = said(both, &made(1));
    assert_eq!((&*words[0], &*words[2]), ("Accepted=True ListenersNotValid", "Programmed=True Programmed"));
    let listeners = field(&wanted, "listeners");
    assert_eq!(listeners[0]["conditions"][0]["reason"], "UnsupportedProtocol");
    assert_eq!(
        (&listeners[0]["conditions"][3]["status"], &listeners[1]["conditions"][3]["status"]),
        (&json!("False"), &json!("True"))
    );
    let (_, words) = said(json!({"spec": {"listeners": [web]}}), &made(0));
    assert_eq!(words[0], "Accepted=False ListenersNotValid");
}

#[test]
fn what_is_said_already_keeps_its_time() {
    let (gateway, mut there) = gateway(json!({}));
    let judged = listener::judge(&gateway.spec.listeners);
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let first = judge(&gateway, &judged, &made(1), &there, at(10));
    there["status"] = json!({"listeners": field(&first, "listeners")});
    let second = judge(&gateway, &judged, &made(1), &there, at(20));
    assert_eq!(field(&first, "listeners"), field(&second, "listeners"));
    let third = judge(&gateway, &judged, &made(0), &there, at(30));
    let times = |wanted: &Wanted| {
        let listeners = field(wanted, "listeners");
        (
            listeners[0]["conditions"][0]["lastTransitionTime"].clone(),
            listeners[0]["conditions"][3]["lastTransitionTime"].clone(),
        )
    };
    assert_eq!(times(&third), (json!("1970-01-01T00:00:10Z"), json!("1970-01-01T00:00:30Z")));
}

#[test]
fn objects_say_how_far_they_are() {
    let service = json!({"metadata": {"name": "w", "namespace": "shop"}, "spec": {"clusterIPs": ["10.96.0.9"]}});
    let deployment = json!({"spec": {"replicas": 3}, "status": {"readyReplicas": 2, "conditions": [
        {"type": "Available", "status": "True", "message": "fine"},
        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]}});
    let found = Made::of(&service, &deployment, "cluster.local");
    let wanted = Made {
        hostname: "w.shop.svc.cluster.local".into(),
        addresses: vec!["10.96.0.9".into()],
        ready: 2,
        wanted: 3,
        complaint: Some("exceeded quota".into()),
        ..Made::default()
    };
    assert_eq!(found, wanted);
    assert_eq!(Made::of(&json!({}), &json!({}), "d").addresses, [""; 0]);
}
