use proto::discovery::DeltaDiscoveryRequest;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, POD_NETWORKS_TYPE, ROUTING_TYPE};

use super::super::tests::{node, resource, response};
use super::super::{ClientConfig, Rejection};
use super::*;

fn held(machine: &Machine, type_url: &str) -> Vec<String> {
    machine.held(type_url).map(|(n, v)| format!("{n}={v}")).collect()
}

#[test]
fn the_first_requests_ask_for_everything_and_only_the_first_has_the_node() {
    let mut m = Machine::new(node(), &ClientConfig::ztunnel(node(), false).subscriptions);
    let requests = m.connect();
    assert_eq!(requests.iter().map(|r| r.type_url.as_str()).collect::<Vec<_>>(), [ADDRESS_TYPE, AUTHORIZATION_TYPE]);
    assert!(requests.iter().all(|r| r.resource_names_subscribe.is_empty() && r.initial_resource_versions.is_empty()));
    let node = requests[0].node.as_ref().unwrap();
    assert_eq!(node.id, "ztunnel~127.0.0.1~zt.istio-system~istio-system.svc.cluster.local");
    let fields = &node.metadata.as_ref().unwrap().fields;
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["INSTANCE_IPS", "NAME", "NAMESPACE", "NODE_NAME"]);
    assert!(requests[1].node.is_none());
}

#[test]
fn what_is_applied_is_held_and_named_after_a_reconnect() {
    let mut m = Machine::new(node(), &ClientConfig::ztunnel(node(), false).subscriptions);
    m.connect();
    let list = vec![resource("a", "1", &[]), resource("b", "1", &[]), resource("c", "1", &[])];
    let update = m.receive(response(ADDRESS_TYPE, "n1", list, &[])).unwrap();
    assert!(!update.synced, "policies are still to come");
    let rejected = [Rejection { name: "b".into(), reason: "bad port".into() }];
    let nack = m.conclude(ADDRESS_TYPE, &rejected).unwrap();
    assert_eq!(nack.response_nonce, "n1");
    let detail = nack.error_detail.unwrap();
    assert_eq!((detail.code, detail.message.as_str()), (0, "b: bad port"));
    assert_eq!(held(&m, ADDRESS_TYPE), ["a=1", "c=1"]);
    assert_eq!(m.waiting_for(), [ADDRESS_TYPE, AUTHORIZATION_TYPE], "a refused response does not make ready");

    // b in another form, c gone; a fails and stays what it was.
    let list = vec![resource("b", "2", &[]), resource("a", "2", &[])];
    let update = m.receive(response(ADDRESS_TYPE, "n2", list, &["c"])).unwrap();
    assert_eq!(update.removals, ["c".into()]);
    m.conclude(ADDRESS_TYPE, &[Rejection { name: "a".into(), reason: "x".into() }]).unwrap();
    assert_eq!(held(&m, ADDRESS_TYPE), ["a=1", "b=2"]);

    m.receive(response(ADDRESS_TYPE, "n3", vec![], &[])).unwrap();
    let ack = m.conclude(ADDRESS_TYPE, &[]).unwrap();
    let bare =
        DeltaDiscoveryRequest { type_url: ADDRESS_TYPE.into(), response_nonce: "n3".into(), ..Default::default() };
    assert_eq!(ack, bare, "an ACK holds type and nonce and nothing else");
    assert_eq!(m.waiting_for(), [AUTHORIZATION_TYPE]);
    let update = m.receive(response(AUTHORIZATION_TYPE, "n4", vec![], &[])).unwrap();
    assert!(update.synced, "an empty response is one");
    m.conclude(AUTHORIZATION_TYPE, &[]).unwrap();
    assert!(m.waiting_for().is_empty());

    m.disconnect();
    let again = m.connect();
    let versions: Vec<_> = again[0].initial_resource_versions.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(versions, ["a=1", "b=2"]);
    assert!(again[0].node.is_some());
    assert!(m.waiting_for().is_empty(), "ready stays ready");
    assert!(!m.receive(response(ADDRESS_TYPE, "m1", vec![], &[])).unwrap().synced);
    assert!(m.conclude(ADDRESS_TYPE, &[]).is_some());
    assert!(m.conclude(ADDRESS_TYPE, &[]).is_none(), "answered once");
    assert_eq!(m.receive(response("x", "1", vec![], &[])), Err(Unexpected::Type("x".into())));
}

#[test]
fn pod_networks_are_asked_for_only_where_told_to_before_everything_else_and_waited_for_once() {
    let asked = ClientConfig::ztunnel(node(), false).with_pod_networks().subscriptions;
    let mut m = Machine::new(node(), &asked);
    let types: Vec<_> = m.connect().into_iter().map(|r| r.type_url).collect();
    assert_eq!(types, [POD_NETWORKS_TYPE, ADDRESS_TYPE, AUTHORIZATION_TYPE]);
    for type_url in [ADDRESS_TYPE, AUTHORIZATION_TYPE] {
        m.receive(response(type_url, "1", vec![], &[])).unwrap();
        m.conclude(type_url, &[]).unwrap();
    }
    assert_eq!(m.waiting_for(), [POD_NETWORKS_TYPE]);
    assert!(m.receive(response(POD_NETWORKS_TYPE, "2", vec![], &[])).unwrap().synced, "no network is an answer");
    m.conclude(POD_NETWORKS_TYPE, &[]).unwrap();
    m.disconnect();
    assert!(m.waiting_for().is_empty());
}

#[test]
fn on_demand_names_are_asked_once_and_answered_by_name_alias_or_absence() {
    let mut m = Machine::new(node(), &ClientConfig::ztunnel(node(), true).subscriptions);
    assert_eq!(m.waiting_for(), [AUTHORIZATION_TYPE]);
    // Before there is a stream: goes along with the first request.
    assert!(m.demand(ADDRESS_TYPE, "/10.0.0.9".into()).is_none());
    let first = m.connect().remove(0);
    assert_eq!(
        (first.resource_names_subscribe, first.resource_names_unsubscribe),
        (vec!["*".to_owned()], vec!["*".to_owned()])
    );
    assert_eq!(first.initial_resource_versions, [("/10.0.0.9".to_owned(), String::new())].into());
    let ask = m.demand(ADDRESS_TYPE, "/10.0.0.1".into()).unwrap();
    assert_eq!(ask.resource_names_subscribe, ["/10.0.0.1"]);
    assert!(ask.response_nonce.is_empty() && ask.node.is_none());
    assert!(m.demand(ADDRESS_TYPE, "/10.0.0.1".into()).is_none(), "asked already");
    assert!(m.demand(AUTHORIZATION_TYPE, "x".into()).is_none(), "we have all of these");
    let list = vec![resource("s/web", "1", &["/10.0.0.1"]), resource("pod", "1", &[])];
    let update = m.receive(response(ADDRESS_TYPE, "1", list, &["/10.0.0.9"])).unwrap();
    assert_eq!(update.answered, ["/10.0.0.1".into(), "/10.0.0.9".into()]);
    m.conclude(ADDRESS_TYPE, &[]).unwrap();
    assert_eq!(held(&m, ADDRESS_TYPE), ["pod=1", "s/web=1"]);
    assert!(m.demand(ADDRESS_TYPE, "/10.0.0.9".into()).is_some(), "an absence may end, so it can be asked again");
}

#[test]
fn a_long_refusal_is_cut() {
    let mut m = Machine::new(node(), &ClientConfig::ztunnel(node(), false).subscriptions);
    m.connect();
    let rejections: Vec<_> = (0..500).map(|i| Rejection { name: format!("r{i}"), reason: "x".into() }).collect();
    m.receive(response(ADDRESS_TYPE, "1", vec![], &[])).unwrap();
    let text = m.conclude(ADDRESS_TYPE, &rejections).unwrap().error_detail.unwrap().message;
    assert!(text.ends_with("and 480 more") && text.len() < 1000, "{text}");
}

#[test]
fn a_waypoint_follows_routing_whole_and_addresses_by_name_until_it_releases_them() {
    let node = Node::waypoint([10, 0, 0, 7].into(), "wp-1", "shop", "n1");
    assert_eq!(node.id, "waypoint~10.0.0.7~wp-1.shop~shop.svc.cluster.local");
    let mut m = Machine::new(node.clone(), &ClientConfig::waypoint(node).subscriptions);
    let types: Vec<_> = m.connect().into_iter().map(|r| (r.type_url, r.resource_names_subscribe)).collect();
    assert_eq!(types, [(ROUTING_TYPE.to_owned(), vec![]), (ADDRESS_TYPE.to_owned(), vec!["*".to_owned()])]);
    assert_eq!(m.waiting_for(), [ROUTING_TYPE]);
    for name in ["shop/web", "shop/gone", "shop/old"] {
        m.demand(ADDRESS_TYPE, name.into()).unwrap();
    }
    let list = vec![resource("shop/web", "1", &[]), resource("pod", "1", &[]), resource("shop/old", "1", &[])];
    m.receive(response(ADDRESS_TYPE, "1", list, &["shop/gone"])).unwrap();
    m.conclude(ADDRESS_TYPE, &[]).unwrap();
    let release = m.release(ADDRESS_TYPE, "shop/old").unwrap();
    assert_eq!(release.resource_names_unsubscribe, ["shop/old"]);
    assert!(m.release(ADDRESS_TYPE, "shop/old").is_none(), "released already");

    // The next stream: what is held by its version, what was not there by its name, what was released not at all.
    m.disconnect();
    let again = m.connect().remove(1);
    assert_eq!(again.resource_names_subscribe, ["*", "shop/gone"]);
    assert_eq!(again.initial_resource_versions.keys().collect::<Vec<_>>(), ["pod", "shop/web"]);
}
