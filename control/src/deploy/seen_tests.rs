use serde_json::json;

use super::*;

fn gateway(name: &str, class: &str) -> Value {
    json!({"kind": "Gateway", "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": 1},
           "spec": {"gatewayClassName": class}})
}

fn class(name: &str, controller: &str, generation: i64) -> Value {
    json!({"kind": "GatewayClass", "metadata": {"name": name, "uid": name, "generation": generation},
           "spec": {"controllerName": controller}})
}

fn deployment(name: &str, gateway: &str, uid: &str) -> Value {
    json!({"kind": "Deployment", "metadata": {"name": name, "namespace": "shop", "labels": {GATEWAY_NAME: gateway},
           "ownerReferences": [{"kind": "Gateway", "name": gateway, "uid": uid, "controller": true}]}})
}

fn shop(name: &str) -> Name {
    ("shop".to_owned(), name.to_owned())
}

fn apply(seen: &mut Seen, kind: Kind, object: Value) -> Vec<Task> {
    seen.apply(Event::Apply(kind, Box::new(object))).into_iter().collect()
}

/// Two Gateways of our class and one of another's.
fn full() -> Seen {
    let mut seen = Seen::new(OwnIstioNames::Auto);
    apply(&mut seen, Kind::Class, class("culvert-waypoint", class::OWN.1, 1));
    apply(&mut seen, Kind::Class, class("istio-waypoint", class::ISTIO.1, 1));
    apply(&mut seen, Kind::Class, class("edge", "example.org/gateway", 1));
    for (name, class) in [("a", "culvert-waypoint"), ("b", "istio-waypoint"), ("c", "edge")] {
        apply(&mut seen, Kind::Gateway, gateway(name, class));
    }
    for kind in Kind::ALL {
        seen.apply(Event::Finish(kind));
    }
    seen
}

#[test]
fn nothing_is_done_before_everything_is_known_and_then_all_is() {
    let mut seen = Seen::new(OwnIstioNames::Auto);
    apply(&mut seen, Kind::Gateway, gateway("a", "x"));
    for kind in Kind::ALL {
        assert!(!seen.complete());
        let touched = seen.apply(Event::Finish(kind));
        assert_eq!(!touched.is_empty(), seen.complete());
        if seen.complete() {
            assert_eq!(touched, BTreeSet::from([Task::Classes, Task::Gateway(shop("a"))]));
        }
    }
}

#[test]
fn a_change_touches_what_depends_on_it() {
    let mut seen = full();
    let a = || vec![Task::Gateway(shop("a"))];
    assert_eq!(apply(&mut seen, Kind::Deployment, deployment("d", "a", "a")), a());
    assert_eq!(seen.apply(Event::Remove(Kind::Deployment, shop("d"))).into_iter().collect::<Vec<_>>(), a());
    // The same generation: only its status was written.
    assert_eq!(apply(&mut seen, Kind::Class, class("culvert-waypoint", class::OWN.1, 1)), [Task::Classes]);
    let changed = apply(&mut seen, Kind::Class, class("culvert-waypoint", class::OWN.1, 2));
    assert_eq!(changed, [Task::Classes, Task::Gateway(shop("a"))]);
    assert_eq!(apply(&mut seen, Kind::Istiod, json!({"metadata": {"name": "istiod", "namespace": "i"}})).len(), 4);
    assert!(seen.apply(Event::Remove(Kind::Gateway, shop("a"))).is_empty(), "the garbage collector does the rest");
}

#[test]
fn istios_class_is_left_to_istio_where_it_is() {
    let mut seen = full();
    let ours = |seen: &Seen| ["a", "b", "c"].map(|name| seen.scene(&shop(name)).unwrap().ours);
    assert_eq!(ours(&seen), [true, true, false]);
    apply(&mut seen, Kind::Istiod, json!({"metadata": {"name": "istiod", "namespace": "i"}}));
    assert_eq!(ours(&seen), [true, false, false]);
    seen.apply(Event::Begin(Kind::Istiod));
    assert_eq!(seen.apply(Event::Finish(Kind::Istiod)).len(), 4, "gone while nobody watched");
    assert_eq!(ours(&seen), [true, true, false]);
    assert_eq!((seen.classes().len(), seen.scene(&shop("z")).is_none()), (3, true));
}

#[test]
fn only_what_the_very_gateway_owns_was_made_for_it() {
    let mut seen = full();
    apply(&mut seen, Kind::Deployment, deployment("one", "a", "a"));
    apply(&mut seen, Kind::Deployment, deployment("two", "a", "an earlier one"));
    apply(&mut seen, Kind::Deployment, deployment("three", "b", "b"));
    let made: Vec<_> = seen.scene(&shop("a")).unwrap().made.into_keys().collect();
    assert_eq!(made, [(Kind::Deployment, "one".to_owned())]);
    let mut going = gateway("a", "culvert-waypoint");
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    apply(&mut seen, Kind::Gateway, going);
    assert!(seen.scene(&shop("a")).is_none());
}
