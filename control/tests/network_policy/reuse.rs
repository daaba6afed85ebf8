//! An address that one pod had and another one has.

use control::object::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::json;

use super::cases::policies;
use super::cluster::{Cluster, Sketch, pairs, pod};
use super::{held, lets_in, lets_out, oracle};

/// `web` may dial and be dialled by whoever is `app=peer`.
fn policy() -> NetworkPolicy {
    serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "a" },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "peer" } } }] }],
            "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": "peer" } } }], "ports": [{ "port": "http" }] }] }
    }))
    .unwrap()
}

/// Both have the address; `ending` says which of them is being deleted.
fn answer(old: &str, new: &str, ending: [bool; 2], backwards: bool) -> (bool, bool) {
    let of = |name, labels, addresses, ending| {
        pod(&Sketch { ending, ..Sketch::new("a", name, labels, addresses, &[("http", 80)]) })
    };
    let web = of("web", "app=web", &["10.0.0.1"], false);
    let (old, new) = (of("old", old, &["10.0.0.2"], ending[0]), of("new", new, &["10.0.0.2"], ending[1]));
    let mut pods = vec![web.clone(), old, new];
    if backwards {
        pods.reverse();
    }
    let namespaces = [("a".to_owned(), pairs("kubernetes.io/metadata.name=a"))].into();
    let cluster = Cluster { namespaces, pods };
    let all = policies(&cluster, &[policy()]);
    let set = held(all.resources());
    let ip = "10.0.0.2".parse().unwrap();
    let got = (lets_in(&all, &set, &web, ip, 8080), lets_out(&all, &set, &web, ip, 80));
    let objects = [policy()];
    let (web, o) = (&web, &cluster);
    assert_eq!(got, (oracle::allows(o, &objects, web, ip, 8080), oracle::lets_out(o, &objects, web, ip, 80)));
    got
}

#[test]
fn an_address_is_a_peers_only_if_all_are_peers_that_have_it() {
    let (peer, other) = ("app=peer", "app=other");
    for (old, new, ending, through) in [
        (peer, peer, [false, false], true),
        (peer, other, [false, false], false),
        (other, peer, [false, false], false),
        // Who is being deleted does not count beside who is not.
        (peer, other, [true, false], false),
        (other, peer, [true, false], true),
        (peer, other, [false, true], true),
        (peer, other, [true, true], false),
        (peer, peer, [true, true], true),
    ] {
        for backwards in [false, true] {
            assert_eq!(answer(old, new, ending, backwards), (through, through), "{old} {new} {ending:?} {backwards}");
        }
    }
}

#[test]
fn the_new_owner_changes_the_policy_in_the_step_in_which_he_comes_and_in_no_later_one() {
    let of = |name, labels, ending| {
        let sketch = Sketch { ending, ..Sketch::new("a", name, labels, &["10.0.0.2"], &[("http", 80)]) };
        Pod::from(&pod(&sketch))
    };
    let mut all = policies(&Cluster::default(), &[policy()]);
    let web = Sketch::new("a", "web", "app=web", &["10.0.0.1"], &[]);
    all.set_pod(&Pod::from(&pod(&web)));
    let key = "a/culvert_network_policy_egress__p";
    let tells = |effects: &control::policies::Effects| effects.resources.contains(key);
    assert!(tells(&all.set_pod(&of("old", "app=peer", false))), "a peer comes");
    let with = all.resource(key);
    assert!(!tells(&all.set_pod(&of("old", "app=peer", true))), "it is being deleted, and has its address still");
    assert!(tells(&all.set_pod(&of("new", "app=other", false))), "somebody else has the address");
    assert_ne!(all.resource(key), with);
    let without = all.resource(key);
    assert!(!tells(&all.remove_pod("a", "old")), "nothing is left to change");
    assert_eq!(all.resource(key), without);
    assert!(tells(&all.set_pod(&of("new", "app=peer", false))), "and it becomes a peer");
    assert_eq!(all.resource(key), with);
}
