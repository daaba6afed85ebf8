use std::collections::BTreeMap;

use hickory_proto::rr::RecordType::{self, A, AAAA, ANY, HTTPS, SRV, TXT};
use mesh::service::{HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Visibility};
use mesh::workload::Health;
use mesh::{Service, Workload};

use crate::testing::{SHOP, answer, ask, endpoint, line, service, settings, snapshot};
use crate::{Client, Decision, Settings, decide};

/// The world of the table below.
fn world() -> directory::Snapshot {
    let hidden = Service { visibility: Visibility::Namespace, ..service("secret", "hidden.example.com", "10.96.9.1") };
    let headless = service("shop", "db.shop.svc.cluster.local", "");
    let four = Service { ip_families: IpFamilies::Ipv4Only, ..service("shop", "four.shop.svc.cluster.local", "") };
    let six = Service { ip_families: IpFamilies::Ipv6Only, ..service("shop", "six.shop.svc.cluster.local", "") };
    let all =
        LoadBalancing { preference: Vec::new(), mode: LoadBalancingMode::Unspecified, health: HealthPolicy::AllowAll };
    let unready = Service { load_balancing: Some(all), ..service("shop", "unready.shop.svc.cluster.local", "") };
    let sick = |w: Workload| Workload { health: Health::Unhealthy, ..w };
    let far = |w: Workload| Workload { network: "far".into(), ..w };
    let workloads = vec![
        endpoint(&headless, "db-0", "10.244.1.1 fd00::1"),
        endpoint(&headless, "db-1", "10.244.1.2"),
        sick(endpoint(&headless, "db-2", "10.244.1.3")),
        far(endpoint(&headless, "db-3", "10.244.1.4")),
        endpoint(&four, "four-0", "10.244.1.5 fd00::5"),
        endpoint(&six, "six-0", "10.244.1.6 fd00::6"),
        sick(endpoint(&unready, "unready-0", "10.244.1.7")),
    ];
    let services = vec![
        headless,
        four,
        six,
        unready,
        hidden,
        service("shop", "cart.shop.svc.cluster.local", "10.96.0.1 fd00:10::1 far/10.97.0.1"),
        Service {
            ip_families: IpFamilies::Ipv4Only,
            // The second one and the third are a load balancer's.
            ..service("shop", "balanced.shop.svc.cluster.local", "10.96.0.7 203.0.113.7 2001:db8::7")
        },
        service("other", "cart.other.svc.cluster.local", "10.96.0.2"),
        service("far", "away.far.svc.cluster.local", "far/10.97.0.3"),
        service("shop", "api.example.com", "240.240.0.1"),
        service("shop", "*.wild.example.com", "240.240.0.2"),
        service("shop", "*.example.com", "240.240.0.3"),
        service("shop", "plain.example.org", ""),
        service("shop", "Capital.Example.net", "240.240.0.4"),
        // A trap: `db-0.db` completed as service and namespace.
        service("db", "db-0.db.svc.cluster.local", "10.96.0.66"),
    ];
    snapshot(services, workloads)
}

#[test]
fn names_types_families_and_networks() {
    let all = world();
    let cases: &[(&str, RecordType, &str)] = &[
        // Every form of a service's name.
        ("cart.shop.svc.cluster.local.", A, "shop/cart.shop.svc.cluster.local: 10.96.0.1"),
        ("cart.shop.svc.cluster.local.", AAAA, "shop/cart.shop.svc.cluster.local: fd00:10::1"),
        ("CART.shop.SVC.cluster.Local.", A, "shop/cart.shop.svc.cluster.local: 10.96.0.1"),
        ("balanced.", A, "shop/balanced.shop.svc.cluster.local: 10.96.0.7"),
        ("balanced.", AAAA, "shop/balanced.shop.svc.cluster.local: "),
        ("cart.", A, "shop/cart.shop.svc.cluster.local: 10.96.0.1"),
        ("cart.other.", A, "other/cart.other.svc.cluster.local: 10.96.0.2"),
        ("cart.other.svc.", A, "other/cart.other.svc.cluster.local: 10.96.0.2"),
        ("cart.other.svc.cluster.local.", A, "other/cart.other.svc.cluster.local: 10.96.0.2"),
        // A client's resolver appended a search domain to a name that needed none, or less.
        (
            "cart.other.shop.svc.cluster.local.",
            A,
            "cart.other.svc.cluster.local> other/cart.other.svc.cluster.local: 10.96.0.2",
        ),
        (
            "cart.other.svc.shop.svc.cluster.local.",
            A,
            "cart.other.svc.cluster.local> other/cart.other.svc.cluster.local: 10.96.0.2",
        ),
        (
            "cart.other.svc.cluster.local.cluster.local.",
            A,
            "cart.other.svc.cluster.local> other/cart.other.svc.cluster.local: 10.96.0.2",
        ),
        ("api.example.com.", A, "shop/api.example.com: 240.240.0.1"),
        ("api.example.com.shop.svc.cluster.local.", A, "api.example.com> shop/api.example.com: 240.240.0.1"),
        ("api.example.com.svc.cluster.local.", A, "api.example.com> shop/api.example.com: 240.240.0.1"),
        ("api.example.com.cluster.local.", A, "api.example.com> shop/api.example.com: 240.240.0.1"),
        ("api.example.com.other.svc.cluster.local.", A, "forward: not a name of the mesh"),
        ("capital.example.net.", A, "shop/Capital.Example.net: 240.240.0.4"),
        // Wildcards, the narrowest first; the domain itself is not covered.
        ("x.wild.example.com.", A, "shop/*.wild.example.com: 240.240.0.2"),
        ("x.y.wild.example.com.", A, "shop/*.wild.example.com: 240.240.0.2"),
        ("wild.example.com.", A, "shop/*.example.com: 240.240.0.3"),
        ("example.com.", A, "forward: not a name of the mesh"),
        ("x.wild.example.com.shop.svc.cluster.local.", A, "x.wild.example.com> shop/*.wild.example.com: 240.240.0.2"),
        // A known name without records of the family, or with addresses on other networks only: an empty answer.
        ("api.example.com.", AAAA, "shop/api.example.com: "),
        ("away.far.svc.cluster.local.", A, "far/away.far.svc.cluster.local: "),
        // Headless services: endpoints that are ready, on the client's network, of the service's families.
        ("db.", A, "shop/db.shop.svc.cluster.local: 10.244.1.1 10.244.1.2"),
        ("db.shop.svc.cluster.local.", AAAA, "shop/db.shop.svc.cluster.local: fd00::1"),
        ("four.", A, "shop/four.shop.svc.cluster.local: 10.244.1.5"),
        ("four.", AAAA, "shop/four.shop.svc.cluster.local: "),
        ("six.", A, "shop/six.shop.svc.cluster.local: "),
        ("six.", AAAA, "shop/six.shop.svc.cluster.local: fd00::6"),
        ("unready.", A, "shop/unready.shop.svc.cluster.local: 10.244.1.7"),
        // A single pod of one, with and without search domains; never the service `db-0` of a namespace `db`.
        ("db-0.db.shop.svc.cluster.local.", A, "forward: name of a single pod"),
        ("db-0.db.shop.svc.cluster.local.", AAAA, "forward: name of a single pod"),
        ("db-0.db.", A, "db/db-0.db.svc.cluster.local: 10.96.0.66"),
        ("_sip._tcp.cart.shop.svc.cluster.local.", A, "forward: not a name of the mesh"),
        // No address of its own and outside the cluster: wherever the name leads.
        ("plain.example.org.", A, "forward: not a name of the mesh"),
        ("plain.example.org.shop.svc.cluster.local.", A, "forward: not a name of the mesh"),
        // Not visible from here.
        ("hidden.example.com.", A, "shop/*.example.com: 240.240.0.3"),
        // Not of the mesh.
        ("example.net.", A, "forward: not a name of the mesh"),
        (".", A, "forward: not a name of the mesh"),
        ("unknown.shop.svc.cluster.local.", A, "forward: not a name of the mesh"),
        ("1.0.96.10.in-addr.arpa.", A, "forward: not a name of the mesh"),
        (r"cart\.shop.svc.cluster.local.", A, "forward: not a name of the mesh"),
        (r"x\.wild.example.com.", A, "forward: not a name of the mesh"),
        // Other questions, of names of the mesh too.
        ("cart.shop.svc.cluster.local.", SRV, "forward: not an address query"),
        ("cart.shop.svc.cluster.local.", TXT, "forward: not an address query"),
        ("cart.shop.svc.cluster.local.", ANY, "forward: not an address query"),
        ("cart.shop.svc.cluster.local.", HTTPS, "forward: not an address query"),
    ];
    for (name, kind, expected) in cases {
        let found = line(&decide(&ask(name, *kind), SHOP, &all, &settings(), 0));
        assert_eq!(found, *expected, "{name} {kind}");
    }
}

#[test]
fn the_clients_namespace_and_network_matter() {
    let all = world();
    let of =
        |namespace, network, name| line(&decide(&ask(name, A), Client { namespace, network }, &all, &settings(), 0));
    assert_eq!(of("other", "", "cart."), "other/cart.other.svc.cluster.local: 10.96.0.2");
    assert_eq!(of("shop", "far", "cart."), "shop/cart.shop.svc.cluster.local: 10.97.0.1");
    assert_eq!(of("shop", "far", "db."), "shop/db.shop.svc.cluster.local: 10.244.1.4");
    assert_eq!(of("secret", "", "hidden.example.com."), "secret/hidden.example.com: 10.96.9.1");
    assert_eq!(of("none", "", "cart."), "forward: not a name of the mesh");
}

#[test]
fn among_the_same_host_name_the_nearest_wins() {
    let host = "api.example.com";
    let canonical = Service { canonical: true, ..service("m-canonical", host, "10.0.0.2") };
    let plain = |ns| service(ns, host, "10.0.0.1");
    let hidden = Service { visibility: Visibility::Namespace, ..service("a-hidden", host, "10.0.0.3") };
    let indifferent = settings();
    let preferring = Settings::new("cluster.local", Some("p-preferred")).unwrap();
    for (services, settings, expected) in [
        (vec![plain("a"), plain("shop"), canonical.clone(), plain("p-preferred")], &preferring, "shop"),
        (vec![plain("a"), canonical.clone(), plain("p-preferred")], &preferring, "m-canonical"),
        (vec![plain("a"), plain("p-preferred")], &preferring, "p-preferred"),
        (vec![plain("b"), plain("a"), hidden.clone()], &preferring, "a"),
        (vec![plain("b"), plain("p-preferred")], &indifferent, "b"),
    ] {
        let all = snapshot(services, Vec::new());
        let found = line(&decide(&ask("api.example.com.", A), SHOP, &all, settings, 0));
        assert!(found.starts_with(&format!("{expected}/")), "{found} is not of {expected}");
    }
    // One without addresses does not stand in the way of one that has some.
    let all = snapshot(vec![service("shop", host, ""), plain("b")], Vec::new());
    assert_eq!(&*answer(&all, &ask("api.example.com.", A)).service.namespace, "b");
}

#[test]
fn addresses_are_spread_over_all_places() {
    let headless = service("shop", "db.shop.svc.cluster.local", "");
    let pods = (0..8).map(|i| endpoint(&headless, &format!("db-{i}"), &format!("10.244.0.{i}"))).collect();
    let all = snapshot(vec![headless], pods);
    let mut first = BTreeMap::new();
    for random in 0..4_000u64 {
        let Decision::Answer(answer) = decide(&ask("db.", A), SHOP, &all, &settings(), random) else { panic!() };
        assert_eq!(answer.addresses.len(), 8);
        *first.entry(answer.addresses[0]).or_insert(0) += 1;
    }
    // 500 each; five standard deviations are about 105.
    assert!(first.len() == 8 && first.values().all(|n| (395..605).contains(n)), "{first:?}");
}

#[test]
fn settings_are_checked() {
    assert_eq!(Settings::new("Cluster.Local.", None).unwrap().domain(), "cluster.local");
    for domain in ["", ".", "a..b", "-a.b", "a_b", "x y", "cluster.local/", &"a.".repeat(120)] {
        assert!(Settings::new(domain, None).unwrap_err().to_string().contains("cluster.local"), "{domain}");
    }
    assert!(Settings::new("cluster.local", Some("a.b")).is_err());
}
