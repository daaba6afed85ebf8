use serde_json::json;

use super::*;

fn report() -> ClientReport {
    let address = TypeReport {
        wildcard: true,
        held: 3,
        acked: 7,
        sent: Some(9),
        nacks: 1,
        last_nack: Some("no".into()),
        refused: 1,
    };
    let policies = TypeReport { wildcard: true, acked: 2, ..TypeReport::default() };
    ClientReport {
        node: "ztunnel~10.0.0.1~ztunnel-a.culvert-system~culvert-system.svc.cluster.local".into(),
        types: BTreeMap::from([(ADDRESS_TYPE.to_owned(), address), (AUTHORIZATION_TYPE.to_owned(), policies)]),
    }
}

#[test]
fn syncz_has_istiods_names() {
    let shown = serde_json::to_value(sync_status(&report(), "Kubernetes")).unwrap();
    assert_eq!(
        shown,
        json!({"cluster_id": "Kubernetes", "proxy": "ztunnel-a.culvert-system", "proxy_type": "ztunnel",
               "istio_version": concat!("culvert-", env!("CARGO_PKG_VERSION")),
               "address_sent": "9", "address_acked": "7", "authorization_sent": "2", "authorization_acked": "2"})
    );
}

#[test]
fn a_client_shows_what_it_refused_and_whether_it_is_up_to_date() {
    let shown =
        serde_json::to_value(client_state(4, &report(), &|url| if url == ADDRESS_TYPE { 9 } else { 2 })).unwrap();
    let types = &shown["types"];
    assert_eq!(
        types[ADDRESS_TYPE],
        json!({"wildcard": true, "held": 3, "acked": 7, "sent": 9, "refused": 1, "nacks": 1, "lastNack": "no", "synced": false})
    );
    assert_eq!((&types[AUTHORIZATION_TYPE]["synced"], &shown["stream"]), (&json!(true), &json!(4)));
}

#[test]
fn the_world_is_what_the_store_holds_in_the_shape_of_a_config_dump() {
    let store = crate::apply::store();
    let workload = mesh::Workload {
        uid: "Kubernetes//Pod/shop/web".into(),
        name: "web".into(),
        namespace: "shop".into(),
        addresses: vec![[10, 0, 0, 1].into()],
        node: "node-a".into(),
        ..mesh::Workload::default()
    };
    store.apply_change(&xds::Change { workloads: vec![workload], ..xds::Change::default() }).unwrap();
    let shown = serde_json::to_value(world(&store, &["10.0.0.0/16".parse().unwrap()])).unwrap();
    assert_eq!(shown["workloads"][0]["uid"], "Kubernetes//Pod/shop/web");
    assert_eq!(shown["workloads"][0]["workloadIps"], json!(["10.0.0.1"]));
    assert_eq!((&shown["services"], &shown["podCidrs"]), (&json!([]), &json!(["10.0.0.0/16"])));
}
