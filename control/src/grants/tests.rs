use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use kubernetes::review::{Denied, Reviewing};
use prost_types::{Struct, Value};
use proto::discovery::Node;
use serde_json::json;
use telemetry::Metrics;
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::*;
use crate::arrival;
use crate::object::{Key, Kind};

/// Says of each token what a table says.
#[derive(Default)]
struct Table {
    known: Mutex<BTreeMap<String, Reviewed>>,
    away: AtomicBool,
}

impl Reviewer for Table {
    fn review<'a>(&'a self, token: &'a str) -> Reviewing<'a> {
        let answer = if self.away.load(Ordering::SeqCst) {
            Err(ReviewError::Unavailable("the API server is away".to_owned()))
        } else {
            self.known.lock().unwrap().get(token).cloned().ok_or(ReviewError::Denied(Denied::Expired))
        };
        Box::pin(std::future::ready(answer))
    }
}

fn reviewed(namespace: &str, account: &str, pod: Option<(&str, &str)>) -> Reviewed {
    Reviewed {
        namespace: namespace.into(),
        service_account: account.into(),
        pod: pod.map(|(name, uid)| Bound { name: name.into(), uid: uid.into() }),
        node: None,
        expires: None,
    }
}

fn pod(namespace: &str, name: &str, uid: &str, account: &str, node: Option<&str>, phase: &str) -> crate::object::Input {
    let object = json!({
        "metadata": {"namespace": namespace, "name": name, "uid": uid},
        "spec": {"serviceAccountName": account, "nodeName": node, "containers": []},
        "status": {"phase": phase},
    });
    arrival::read(Kind::Pod, &object).unwrap().unwrap()
}

struct Site {
    grants: Grants,
    table: Arc<Table>,
    proxies: Proxies,
    drain: chassis::Drain,
}

fn site() -> Site {
    let table = Arc::new(Table::default());
    for (token, who) in [
        ("good", reviewed("culvert-system", "ztunnel", Some(("ztunnel-a", "u-1")))),
        ("stock", reviewed("istio-system", "ztunnel", Some(("ztunnel-i", "u-i")))),
        ("old pod", reviewed("culvert-system", "ztunnel", Some(("ztunnel-a", "u-0")))),
        ("no pod", reviewed("culvert-system", "ztunnel", None)),
        ("app", reviewed("shop", "web", Some(("web-1", "u-w")))),
        ("namesake", reviewed("shop", "ztunnel", Some(("web-1", "u-w")))),
        ("unplaced", reviewed("culvert-system", "ztunnel", Some(("ztunnel-p", "u-p")))),
        ("finished", reviewed("culvert-system", "ztunnel", Some(("ztunnel-f", "u-f")))),
        ("borrowed", reviewed("culvert-system", "ztunnel", Some(("job", "u-j")))),
        (
            "elsewhere",
            Reviewed {
                node: Some(Bound { name: "node-b".into(), uid: String::new() }),
                ..reviewed("culvert-system", "ztunnel", Some(("ztunnel-a", "u-1")))
            },
        ),
    ] {
        table.known.lock().unwrap().insert(token.to_owned(), who);
    }
    let proxies =
        Proxies::new(["culvert-system/ztunnel", "istio-system/ztunnel"].iter().filter_map(|text| Account::parse(text)));
    proxies.upsert(&pod("culvert-system", "ztunnel-a", "u-1", "ztunnel", Some("node-a"), "Running"));
    proxies.upsert(&pod("istio-system", "ztunnel-i", "u-i", "ztunnel", Some("node-i"), "Running"));
    proxies.upsert(&pod("shop", "web-1", "u-w", "web", Some("node-a"), "Running"));
    proxies.upsert(&pod("culvert-system", "ztunnel-p", "u-p", "ztunnel", None, "Pending"));
    proxies.upsert(&pod("culvert-system", "ztunnel-f", "u-f", "ztunnel", Some("node-a"), "Failed"));
    proxies.upsert(&pod("culvert-system", "job", "u-j", "other", Some("node-a"), "Running"));
    let drain = chassis::Drain::new();
    let grants = Grants {
        reviewer: table.clone(),
        proxies: proxies.clone(),
        cluster_id: "Kubernetes".to_owned(),
        stream_life: Duration::from_secs(3600),
        patience: Duration::from_millis(20),
        drain: drain.signal(),
        verdicts: Metrics::new().counters("v", "v", &["result"]),
    };
    Site { grants, table, proxies, drain }
}

use crate::proxies::Account;

/// What a client sends: headers, node id, metadata of the node.
struct Client {
    headers: MetadataMap,
    node: Node,
}

fn client(token: &str, id: &str, metadata: &[(&str, &str)]) -> Client {
    let mut headers = MetadataMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let text = |text: &str| Value { kind: Some(prost_types::value::Kind::StringValue(text.to_owned())) };
    let fields = metadata.iter().map(|(k, v)| ((*k).to_owned(), text(v))).collect();
    Client { headers, node: Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Node::default() } }
}

const ID: &str = "ztunnel~10.0.0.1~ztunnel-a.culvert-system~culvert-system.svc.cluster.local";
const SAYS: &[(&str, &str)] = &[("NAMESPACE", "culvert-system"), ("NODE_NAME", "node-a")];

async fn judge(site: &Site, client: &Client) -> Result<Arc<dyn Grant>, Status> {
    let extensions = tonic::Extensions::new();
    let caller = Caller { metadata: &client.headers, extensions: &extensions, node: &client.node };
    site.grants.authorise(&caller).await
}

async fn refusal(site: &Site, client: &Client) -> (Code, String) {
    let status = judge(site, client).await.err().expect("refused");
    (status.code(), status.message().to_owned())
}

fn gateway(name: &str, protocol: &str) -> crate::object::Input {
    let object = json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"gatewayClassName": "culvert-waypoint",
                 "listeners": [{"name": "mesh", "port": 15008, "protocol": protocol}]},
    });
    arrival::read(Kind::Gateway, &object).unwrap().unwrap()
}

fn waypoint_pod(name: &str, account: &str, label: &str) -> crate::object::Input {
    let object = json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("u-{name}"),
                     "labels": {"gateway.networking.k8s.io/gateway-name": label}},
        "spec": {"serviceAccountName": account, "nodeName": "node-a", "containers": []},
        "status": {"phase": "Running"},
    });
    arrival::read(Kind::Pod, &object).unwrap().unwrap()
}

/// A stream of a pod in `shop` that says it is a waypoint.
fn as_waypoint(site: &Site, pod: &str, account: &str) -> Client {
    let who = reviewed("shop", account, Some((pod, &format!("u-{pod}"))));
    site.table.known.lock().unwrap().insert(pod.to_owned(), who);
    let id = format!("waypoint~10.0.0.9~{pod}.shop~shop.svc.cluster.local");
    client(pod, &id, &[("NAMESPACE", "shop")])
}

fn routing(gateways: &[&str]) -> Entry {
    let comes_with = gateways.iter().map(|g| visible_to("shop", g)).collect();
    Entry { name: "shop/cart".into(), aliases: Vec::new(), comes_with, body: Arc::from([]) }
}

#[tokio::test]
async fn a_waypoint_gets_what_is_bound_to_its_gateway_and_addresses_by_name() {
    let site = site();
    site.proxies.upsert(&gateway("wp", "HBONE"));
    site.proxies.upsert(&waypoint_pod("wp-1", "wp", "wp"));
    let grant = judge(&site, &as_waypoint(&site, "wp-1", "wp")).await.unwrap();
    assert!(grant.wildcard(ROUTING_TYPE) && !grant.on_demand(ROUTING_TYPE));
    assert!(grant.on_demand(ADDRESS_TYPE) && !grant.wildcard(ADDRESS_TYPE));
    let (policies, networks) = (proto::AUTHORIZATION_TYPE, proto::POD_NETWORKS_TYPE);
    assert!(!grant.wildcard(networks) && !grant.on_demand(networks) && !grant.sees(networks, &routing(&["wp"])));
    assert!(!grant.wildcard(policies) && !grant.on_demand(policies) && !grant.sees(policies, &routing(&["wp"])));
    assert!(grant.sees(ROUTING_TYPE, &routing(&["wp"])) && grant.sees(ROUTING_TYPE, &routing(&["x", "wp"])));
    assert!(!grant.sees(ROUTING_TYPE, &routing(&["x"])) && !grant.sees(ROUTING_TYPE, &routing(&[])));
    let other = Entry { comes_with: vec![visible_to("other", "wp")], ..routing(&[]) };
    assert!(!grant.sees(ROUTING_TYPE, &other), "a Gateway of that name in another namespace");
    // A node proxy is no waypoint.
    let node = judge(&site, &client("good", ID, SAYS)).await.unwrap();
    assert!(node.wildcard(networks) && node.sees(networks, &routing(&[])));
    assert!(!node.wildcard(ROUTING_TYPE) && !node.on_demand(ROUTING_TYPE) && !node.whole(ROUTING_TYPE));
    assert!(!node.sees(ROUTING_TYPE, &routing(&["wp"])) && node.sees(ADDRESS_TYPE, &routing(&["wp"])));

    site.proxies.remove(&Key::new(Kind::Gateway, "shop", "wp"));
    let ended = tokio::time::timeout(Duration::from_secs(10), grant.ended()).await.unwrap().unwrap();
    assert!(ended.message().contains("Gateway shop/wp is gone"), "{ended}");
}

#[tokio::test]
async fn whoever_is_no_waypoint_does_not_become_one_by_saying_so() {
    let site = site();
    site.proxies.upsert(&gateway("wp", "HBONE"));
    site.proxies.upsert(&gateway("ingress", "HTTP"));
    site.proxies.upsert(&waypoint_pod("right", "wp", "wp"));
    site.proxies.upsert(&waypoint_pod("other-account", "web", "wp"));
    site.proxies.upsert(&waypoint_pod("other-label", "wp", "else"));
    site.proxies.upsert(&waypoint_pod("no-tunnel", "ingress", "ingress"));
    site.proxies.upsert(&waypoint_pod("no-gateway", "gone", "gone"));
    for (pod, account) in [
        ("other-account", "web"),
        ("other-label", "wp"),
        ("no-tunnel", "ingress"),
        ("no-gateway", "gone"),
        ("absent", "wp"),
    ] {
        let (code, says) = refusal(&site, &as_waypoint(&site, pod, account)).await;
        assert_eq!(code, Code::PermissionDenied, "{pod}: {says}");
        assert!(says.contains("is no waypoint"), "{pod}: {says}");
    }
    // Its token is of another pod, or it says that it is one.
    let mut client_of_right = as_waypoint(&site, "right", "wp");
    client_of_right.node.id = "waypoint~10.0.0.9~else.shop~shop.svc.cluster.local".to_owned();
    assert!(refusal(&site, &client_of_right).await.1.contains("its pod"));
    let stale = reviewed("shop", "wp", Some(("right", "u-before")));
    let client_of_stale = as_waypoint(&site, "right", "wp");
    site.table.known.lock().unwrap().insert("right".to_owned(), stale);
    assert!(refusal(&site, &client_of_stale).await.1.contains("is no waypoint"));
}

#[tokio::test]
async fn a_node_proxy_gets_everything_and_unasked_what_runs_on_its_node() {
    let site = site();
    let grant = judge(&site, &client("good", ID, SAYS)).await.unwrap();
    assert!(grant.wildcard(ADDRESS_TYPE) && grant.on_demand(ADDRESS_TYPE));
    let workload = |uid: &str, node: &str| mesh::Workload { uid: uid.into(), node: node.into(), ..Default::default() };
    let (here, there) = (workload("here", "node-a"), workload("there", "node-b"));
    site.proxies.apply(&xds::Change { workloads: vec![here.clone(), there.clone()], ..Default::default() });
    assert!(grant.unasked(ADDRESS_TYPE, &Entry::workload(&here)));
    assert!(!grant.unasked(ADDRESS_TYPE, &Entry::workload(&there)));
    let moved = workload("here", "node-b");
    site.proxies.apply(&xds::Change {
        workloads: vec![moved.clone()],
        removed: vec!["there".into()],
        ..Default::default()
    });
    assert!(!grant.unasked(ADDRESS_TYPE, &Entry::workload(&moved)));
}

#[tokio::test]
async fn stock_proxies_and_those_that_name_only_their_pod_are_let_in() {
    let site = site();
    let id = "ztunnel~10.0.0.1~ztunnel-i.istio-system~istio-system.svc.cluster.local";
    assert!(judge(&site, &client("stock", id, &[("NAMESPACE", "istio-system")])).await.is_ok());
    let mut with_cluster = client("good", ID, SAYS);
    for cluster in ["", "Kubernetes"] {
        with_cluster.headers.insert("clusterid", cluster.parse().unwrap());
        assert!(judge(&site, &with_cluster).await.is_ok());
    }
}

#[tokio::test]
async fn everybody_else_is_refused_with_the_reason() {
    let site = site();
    let here = |extra: &[(&'static str, &'static str)]| [SAYS, extra].concat();
    for (case, token, id, metadata, code, words) in [
        ("unknown token", "forged", ID, here(&[]), Code::Unauthenticated, "expired"),
        ("an application", "app", ID, here(&[]), Code::PermissionDenied, "shop/web is not a node proxy's"),
        ("same account name elsewhere", "namesake", ID, here(&[]), Code::PermissionDenied, "shop/ztunnel"),
        ("no pod in the token", "no pod", ID, here(&[]), Code::PermissionDenied, "not bound to a pod"),
        ("an older pod of the name", "old pod", ID, here(&[]), Code::PermissionDenied, "uid u-0 is not there"),
        (
            "a pod that has ended",
            "finished",
            "ztunnel~1~ztunnel-f.culvert-system~x",
            here(&[]),
            Code::PermissionDenied,
            "is not there",
        ),
        (
            "a pod of another account",
            "borrowed",
            "ztunnel~1~job.culvert-system~x",
            here(&[]),
            Code::PermissionDenied,
            "is not there",
        ),
        (
            "not placed",
            "unplaced",
            "ztunnel~1~ztunnel-p.culvert-system~x",
            here(&[]),
            Code::PermissionDenied,
            "not placed",
        ),
        ("token of another node", "elsewhere", ID, here(&[]), Code::PermissionDenied, "node"),
        (
            "claims another node",
            "good",
            ID,
            vec![("NAMESPACE", "culvert-system"), ("NODE_NAME", "node-b")],
            Code::PermissionDenied,
            "NODE_NAME \"node-b\"",
        ),
        (
            "claims another namespace",
            "good",
            ID,
            vec![("NAMESPACE", "shop"), ("NODE_NAME", "node-a")],
            Code::PermissionDenied,
            "NAMESPACE \"shop\"",
        ),
        ("claims no namespace", "good", ID, vec![("NODE_NAME", "node-a")], Code::PermissionDenied, "NAMESPACE \"\""),
        ("claims another account", "good", ID, here(&[("SERVICE_ACCOUNT", "x")]), Code::PermissionDenied, "ACCOUNT"),
        (
            "claims another pod",
            "good",
            "ztunnel~1~ztunnel-b.culvert-system~x",
            here(&[]),
            Code::PermissionDenied,
            "its pod \"ztunnel-b",
        ),
        (
            "claims another role",
            "good",
            "waypoint~1~ztunnel-a.culvert-system~x",
            here(&[]),
            Code::PermissionDenied,
            "its role \"waypoint\"",
        ),
        (
            "names neither node nor pod",
            "good",
            "ztunnel",
            vec![("NAMESPACE", "culvert-system")],
            Code::PermissionDenied,
            "does not say its node",
        ),
    ] {
        let (got, text) = refusal(&site, &client(token, id, &metadata)).await;
        assert_eq!(got, code, "{case}: {text}");
        assert!(text.contains(words), "{case}: {text}");
        assert!(!text.contains("Bearer"), "{case}: {text}");
    }
}

#[tokio::test]
async fn headers_that_are_not_one_bearer_token_are_refused() {
    let site = site();
    let with = |change: &dyn Fn(&mut MetadataMap)| {
        let mut made = client("good", ID, SAYS);
        change(&mut made.headers);
        made
    };
    let two = |h: &mut MetadataMap| assert!(h.append("authorization", "Bearer good".parse().unwrap()));
    let none = |h: &mut MetadataMap| drop(h.remove("authorization"));
    let basic = |h: &mut MetadataMap| drop(h.insert("authorization", "Basic good".parse().unwrap()));
    let empty = |h: &mut MetadataMap| drop(h.insert("authorization", "Bearer ".parse().unwrap()));
    for change in [&two as &dyn Fn(&mut MetadataMap), &none, &basic, &empty] {
        assert_eq!(refusal(&site, &with(change)).await.0, Code::Unauthenticated);
    }
    let other = with(&|h| drop(h.insert("clusterid", "east".parse().unwrap())));
    let (code, text) = refusal(&site, &other).await;
    assert!(code == Code::PermissionDenied && text.contains("east") && text.contains("Kubernetes"), "{text}");
}

#[tokio::test]
async fn a_pod_that_we_hear_of_a_moment_later_is_waited_for() {
    let mut site = site();
    site.grants.patience = Duration::from_secs(60);
    let who = reviewed("culvert-system", "ztunnel", Some(("ztunnel-n", "u-n")));
    site.table.known.lock().unwrap().insert("new".to_owned(), who);
    let id = "ztunnel~1~ztunnel-n.culvert-system~x";
    let new = client("new", id, &[("NAMESPACE", "culvert-system"), ("NODE_NAME", "node-n")]);
    let judged = judge(&site, &new);
    let arrives = async {
        // Unplaced first, as the scheduler has it; then on its node.
        site.proxies.upsert(&pod("culvert-system", "ztunnel-n", "u-n", "ztunnel", None, "Pending"));
        tokio::task::yield_now().await;
        site.proxies.upsert(&pod("culvert-system", "ztunnel-n", "u-n", "ztunnel", Some("node-n"), "Running"));
    };
    let (judged, ()) = tokio::join!(judged, arrives);
    assert!(judged.is_ok());
}

#[tokio::test]
async fn a_grant_ends_with_its_pod_with_the_program_and_with_its_time() {
    let key = Key::new(Kind::Pod, "culvert-system", "ztunnel-a");
    let mut site = site();
    let grant = judge(&site, &client("good", ID, SAYS)).await.unwrap();
    site.proxies.upsert(&pod("culvert-system", "ztunnel-a", "u-1", "ztunnel", Some("node-a"), "Running"));
    assert!(futures_util::FutureExt::now_or_never(grant.ended()).is_none(), "nothing happened");
    site.proxies.remove(&key);
    assert_eq!(grant.ended().await.unwrap().code(), Code::PermissionDenied);

    site.proxies.upsert(&pod("culvert-system", "ztunnel-a", "u-1", "ztunnel", Some("node-a"), "Running"));
    let grant = judge(&site, &client("good", ID, SAYS)).await.unwrap();
    site.proxies.upsert(&pod("culvert-system", "ztunnel-a", "u-2", "ztunnel", Some("node-a"), "Running"));
    assert_eq!(grant.ended().await.unwrap().code(), Code::PermissionDenied, "another pod of the same name");

    site.proxies.upsert(&pod("culvert-system", "ztunnel-a", "u-1", "ztunnel", Some("node-a"), "Running"));
    site.grants.stream_life = Duration::from_millis(10);
    let grant = judge(&site, &client("good", ID, SAYS)).await.unwrap();
    assert!(grant.ended().await.is_none(), "an ordinary end");
    site.grants.stream_life = Duration::from_secs(3600);
    let grant = judge(&site, &client("good", ID, SAYS)).await.unwrap();
    site.drain.begin(Duration::from_secs(1));
    assert_eq!(grant.ended().await.unwrap().code(), Code::Unavailable);
}

#[tokio::test]
async fn while_the_api_server_is_away_known_tokens_are_good_and_others_are_told_to_try_again() {
    let mut site = site();
    let known = |outage| Arc::new(Known::new(site.table.clone(), Duration::from_secs(outage)));
    let (lasting, forgetful) = (known(3600), known(0));
    for reviewer in [&lasting, &forgetful] {
        site.table.away.store(false, Ordering::SeqCst);
        reviewer.review("good").await.unwrap();
        reviewer.review("forged").await.unwrap_err();
    }
    site.table.away.store(true, Ordering::SeqCst);
    assert!(lasting.review("good").await.is_ok());
    assert!(matches!(forgetful.review("good").await, Err(ReviewError::Unavailable(_))), "its time is over");
    assert!(matches!(lasting.review("forged").await, Err(ReviewError::Unavailable(_))));
    site.grants.reviewer = lasting;
    assert!(judge(&site, &client("good", ID, SAYS)).await.is_ok());
    assert_eq!(refusal(&site, &client("stock", ID, SAYS)).await.0, Code::Unavailable);
    // What the watches know still counts: a token of a pod that has gone is good for nothing.
    site.proxies.remove(&Key::new(Kind::Pod, "culvert-system", "ztunnel-a"));
    assert_eq!(refusal(&site, &client("good", ID, SAYS)).await.0, Code::PermissionDenied);
}

#[tokio::test]
async fn a_token_that_ended_or_was_refused_since_is_not_taken_on_trust() {
    let table = Arc::new(Table::default());
    let set = |token: &str, expires| {
        let who = Reviewed { expires, ..reviewed("a", "b", None) };
        table.known.lock().unwrap().insert(token.to_owned(), who);
    };
    set("short", Some(SystemTime::now() - Duration::from_secs(1)));
    set("revoked", None);
    let known = Known::new(table.clone(), Duration::from_secs(3600));
    known.review("short").await.unwrap();
    known.review("revoked").await.unwrap();
    table.known.lock().unwrap().remove("revoked");
    known.review("revoked").await.unwrap_err();
    table.away.store(true, Ordering::SeqCst);
    for token in ["short", "revoked"] {
        assert!(matches!(known.review(token).await, Err(ReviewError::Unavailable(_))), "{token}");
    }
}

#[tokio::test]
async fn a_relist_forgets_pods_that_vanished_meanwhile() {
    let site = site();
    site.proxies.begin(Kind::Pod);
    site.proxies.upsert(&pod("istio-system", "ztunnel-i", "u-i", "ztunnel", Some("node-i"), "Running"));
    assert!(site.proxies.pod("culvert-system", "ztunnel-a").is_some(), "until the list is complete");
    site.proxies.finish(Kind::Pod);
    assert!(site.proxies.pod("culvert-system", "ztunnel-a").is_none());
    assert!(site.proxies.pod("istio-system", "ztunnel-i").is_some());
}

#[test]
fn every_mistake_of_a_token_file_is_told() {
    let text = "tokens:\n- {token: short, namespace: a/b, serviceAccount: z, pod: ''}\n- {token: short, namespace: a, serviceAccount: z, pod: p}\n";
    let mistakes = document::parse::<TokenDocument>("tokens.yaml", text).unwrap_err().to_string();
    for wanted in ["shorter than 16", "same token", "namespace", "empty"] {
        assert!(mistakes.contains(wanted), "{wanted}: {mistakes}");
    }
}
