use chassis::Gate;
use serde_json::{Value, json};
use telemetry::Metrics;
use tokio::time::timeout;

use super::*;
use crate::arrival;
use crate::proxies::Account;
use crate::world::Settings;

/// Longer than any scheduling delay of a busy machine.
const SOON: Duration = Duration::from_secs(20);

struct Site {
    feed: mpsc::Sender<Feed>,
    asks: mpsc::Sender<Ask>,
    store: Store,
    proxies: Proxies,
    gate: Gate,
    published: watch::Receiver<Option<Published>>,
    networks: watch::Receiver<Vec<Cidr>>,
    words: mpsc::UnboundedReceiver<Words>,
    metrics: Metrics,
}

fn site() -> Site {
    let (feed, fed) = mpsc::channel(64);
    let (asks, asked) = mpsc::channel(1);
    let (words, said) = mpsc::unbounded_channel();
    let (metrics, gate, store) = (Metrics::new(), Gate::new(), store());
    let proxies = Proxies::new(Account::parse("culvert-system/ztunnel"));
    let published = Arc::new(watch::Sender::default());
    let networks = Arc::new(watch::Sender::default());
    let sinks = Sinks {
        store: store.clone(),
        proxies: proxies.clone(),
        words,
        pod_cidrs: networks.clone(),
        published: published.clone(),
        outside: Outside::default(),
        ready: gate.condition("objects"),
        numbers: Numbers::new(&metrics),
    };
    let pace = Pace { debounce: Duration::from_millis(1), batch: 100 };
    tokio::spawn(Apply::new(World::new(Settings::default()), sinks, pace).run(fed, asked));
    let (published, networks) = (published.subscribe(), networks.subscribe());
    Site { feed, asks, store, proxies, gate, published, networks, words: said, metrics }
}

fn object(kind: Kind, object: &Value) -> Feed {
    Feed::Upsert(Box::new(arrival::read(kind, object).unwrap().unwrap()))
}

fn pod(name: &str, ip: &str) -> Feed {
    let pod = json!({"metadata": {"namespace": "shop", "name": name, "uid": name},
        "spec": {"serviceAccountName": "web", "nodeName": "node-a", "containers": []},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    object(Kind::Pod, &pod)
}

async fn list(site: &Site, kinds: &[Kind]) {
    for kind in kinds {
        site.feed.send(Feed::Begin(*kind)).await.unwrap();
        site.feed.send(Feed::Finish(*kind)).await.unwrap();
    }
}

/// Waits until the store holds so many addresses.
async fn held(site: &mut Site, wanted: usize) {
    let reached = async {
        while site.store.len(ADDRESS_TYPE).unwrap() != wanted {
            site.published.changed().await.unwrap();
        }
    };
    timeout(SOON, reached).await.unwrap();
}

#[tokio::test]
async fn nothing_is_published_before_every_kind_was_listed() {
    let mut site = site();
    let (last, others) = Kind::ALL.split_last().unwrap();
    list(&site, others).await;
    site.feed.send(pod("a", "10.0.0.1")).await.unwrap();
    // An answer comes from the same task after what was sent before it was taken in.
    let (to, answer) = oneshot::channel();
    site.asks.send(Ask::Statuses(to)).await.unwrap();
    timeout(SOON, answer).await.unwrap().unwrap();
    assert_eq!((site.store.len(ADDRESS_TYPE), site.published.borrow().is_some()), (Ok(0), false));
    assert!(site.gate.state().is_err());
    list(&site, &[*last]).await;
    timeout(SOON, site.gate.ready()).await.unwrap();
    held(&mut site, 1).await;
    assert!(site.proxies.runs_on("Kubernetes//Pod/shop/a", "node-a"));
}

#[tokio::test]
async fn a_list_anew_takes_away_what_vanished_meanwhile() {
    let mut site = site();
    list(&site, &Kind::ALL).await;
    site.feed.send(pod("a", "10.0.0.1")).await.unwrap();
    site.feed.send(pod("b", "10.0.0.2")).await.unwrap();
    held(&mut site, 2).await;
    site.feed.send(Feed::Begin(Kind::Pod)).await.unwrap();
    site.feed.send(pod("b", "10.0.0.2")).await.unwrap();
    site.feed.send(Feed::Finish(Kind::Pod)).await.unwrap();
    held(&mut site, 1).await;
    let text = site.metrics.render();
    for wanted in ["culvert_control_objects{kind=\"Pod\"} 1", "culvert_control_objects{kind=\"Node\"} 0"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_goes_and_its_owner_hears_of_it() {
    let mut site = site();
    list(&site, &Kind::ALL).await;
    let entry = json!({"metadata": {"namespace": "shop", "name": "db", "uid": "u"},
        "spec": {"hosts": ["db.example"], "addresses": ["240.1.1.1"], "resolution": "STATIC",
                 "ports": [{"number": 1, "name": "tcp", "protocol": "TCP"}]}});
    site.feed.send(object(Kind::ServiceEntry, &entry)).await.unwrap();
    held(&mut site, 1).await;
    let key = Key::new(Kind::ServiceEntry, "shop", "db");
    let (uid, why) = ("u".to_owned(), "spec: a list".to_owned());
    site.feed.send(Feed::Unreadable { key: key.clone(), uid, why }).await.unwrap();
    held(&mut site, 0).await;
    let words = async {
        loop {
            if let Some(Words::Unreadable { key: said, .. }) = site.words.recv().await {
                return said;
            }
        }
    };
    assert_eq!(timeout(SOON, words).await.unwrap(), key);
}

/// What node proxies are told of the pod network.
fn told(site: &Site) -> Option<Vec<String>> {
    let entry = site.store.entries(POD_NETWORKS_TYPE).unwrap().pop()?;
    assert_eq!(&*entry.name, proto::POD_NETWORKS_NAME);
    let any = prost_types::Any { type_url: POD_NETWORKS_TYPE.into(), value: entry.body.to_vec() };
    let resource = proto::discovery::Resource {
        name: entry.name.to_string(),
        resource: Some(any),
        ..proto::discovery::Resource::default()
    };
    Some(xds::convert::pod_networks_from_resource(&resource).unwrap().iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn node_proxies_are_told_the_pod_network_as_nodes_come_and_go() {
    let mut site = site();
    let node = |name: &str, block: &str| {
        object(Kind::Node, &json!({"metadata": {"name": name}, "spec": {"podCIDRs": [block]}}))
    };
    list(&site, &Kind::ALL).await;
    timeout(SOON, site.gate.ready()).await.unwrap();
    assert_eq!(told(&site), None, "no node, no network");
    let steps = [
        (node("n1", "10.244.0.0/24"), vec!["10.244.0.0/24"]),
        (node("n2", "10.244.1.0/24"), vec!["10.244.0.0/23"]),
        (node("n3", "10.244.9.0/24"), vec!["10.244.0.0/23", "10.244.9.0/24"]),
        (Feed::Remove(Key::new(Kind::Node, "", "n1")), vec!["10.244.1.0/24", "10.244.9.0/24"]),
    ];
    for (feed, wanted) in steps {
        site.networks.mark_unchanged();
        site.feed.send(feed).await.unwrap();
        timeout(SOON, site.networks.changed()).await.unwrap().unwrap();
        assert_eq!(told(&site).unwrap(), wanted);
    }
}
