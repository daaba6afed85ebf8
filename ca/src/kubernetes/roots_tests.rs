use serde_json::{Value, json};

use super::super::api::Api as Server;
use super::super::secret::tests::{PATH, open};
use super::*;
use crate::config::OwnIstioNames;
use crate::signers::Signers;

fn namespace(server: &Server, name: &str) {
    server.put(&format!("/api/v1/namespaces/{name}"), json!({"metadata": {}}));
}

fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/{name}")
}

fn roots_in(server: &Server, namespace: &str, name: &str) -> Option<String> {
    let map = server.get(&path(namespace, name))?;
    map["data"][KEY].as_str().map(str::to_owned)
}

struct Bench {
    server: Server,
    signer: Arc<super::super::secret::SecretSigner>,
    running: tokio::task::JoinSet<()>,
    counts: Arc<Published>,
}

impl Bench {
    async fn new(server: Server, istio_names: OwnIstioNames) -> Self {
        let signer = open(&server).await;
        let counts = Arc::<Published>::default();
        let mut running = tokio::task::JoinSet::new();
        let board = Board::new(signer.now().roots_pem().to_owned(), istio_names, ["kube-public".to_owned()]);
        let work = publish(server.client(), board, signer.watch(), counts.clone());
        running.spawn(async move { match work.await {} });
        let follows = signer.clone();
        running.spawn(async move { match follows.follow().await {} });
        Self { server, signer, running, counts }
    }

    async fn until(&self, namespace: &str, name: &str) {
        let what = format!("{namespace}/{name}");
        self.server
            .until(&what, |server| roots_in(server, namespace, name).as_deref() == Some(self.signer.now().roots_pem()))
            .await;
    }
}

#[tokio::test]
async fn every_namespace_has_the_roots_and_keeps_them() {
    let server = Server::new();
    for name in ["shop", "kube-system", "kube-public"] {
        namespace(&server, name);
    }
    server.put("/api/v1/namespaces/old", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let mut bench = Bench::new(server.clone(), OwnIstioNames::Never).await;
    for name in ["shop", "kube-system"] {
        bench.until(name, OURS).await;
    }
    // A new namespace, within a second.
    let begin = Instant::now();
    namespace(&server, "late");
    bench.until("late", OURS).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    // Edited and deleted ones are repaired; what others put beside the key stays.
    let mut edited: Value = server.get(&path("shop", OURS)).unwrap();
    edited["data"] = json!({KEY: "nothing", "other": "kept"});
    server.put(&path("shop", OURS), edited);
    server.delete(&path("late", OURS));
    bench.until("shop", OURS).await;
    bench.until("late", OURS).await;
    assert_eq!(server.get(&path("shop", OURS)).unwrap()["data"]["other"], "kept");
    for (name, map) in [("kube-public", OURS), ("old", OURS), ("shop", ISTIOS)] {
        assert!(server.get(&path(name, map)).is_none(), "{name}/{map}");
    }
    assert_eq!(server.get(&path("late", OURS)).unwrap()["metadata"]["labels"][MANAGED_BY], US);
    bench.running.abort_all();
}

#[tokio::test]
async fn new_roots_reach_every_namespace_and_failures_are_made_good() {
    let server = Server::new();
    for i in 0..50 {
        namespace(&server, &format!("ns-{i}"));
    }
    let mut bench = Bench::new(server.clone(), OwnIstioNames::Never).await;
    bench.until("ns-49", OURS).await;
    server.fail(|method, path| (method == "PATCH" && path.contains("/ns-7/")).then_some(403));
    let rotator = super::super::rotate::Rotator::new(server.client(), "culvert-system", "culvert-ca-key");
    rotator.step(crate::rotation::Step::Prepare, false, std::time::SystemTime::now()).await.unwrap();
    bench.signer.watch().wait_for(|a| a.roots_pem().matches("BEGIN").count() == 2).await.unwrap();
    for i in (0..50).filter(|i| *i != 7) {
        bench.until(&format!("ns-{i}"), OURS).await;
    }
    server.heal();
    bench.until("ns-7", OURS).await;
    assert!(bench.counts.failed.load(Ordering::Relaxed) >= 1);
    assert!(server.get(PATH).is_some());
    bench.running.abort_all();
}

#[tokio::test]
async fn istios_name_is_written_until_an_istiod_comes() {
    let server = Server::new();
    namespace(&server, "shop");
    namespace(&server, "theirs");
    let foreign = server.put(&path("theirs", ISTIOS), json!({"metadata": {}, "data": {KEY: "theirs"}}));
    let mut bench = Bench::new(server.clone(), OwnIstioNames::Auto).await;
    bench.until("shop", ISTIOS).await;
    bench.until("theirs", OURS).await;
    let service = "/api/v1/namespaces/istio-system/services/istiod";
    server.put(service, json!({"metadata": {}, "spec": {}}));
    while server.calls(&format!("SENT ADDED {service}")) == 0 {
        tokio::task::yield_now().await;
    }
    namespace(&server, "istio-system");
    bench.until("istio-system", OURS).await;
    // Written after our own one would be, had it been due.
    let end = "/api/v1/namespaces/last";
    server.put(end, json!({"metadata": {}}));
    bench.until("last", OURS).await;
    for name in ["istio-system", "last"] {
        assert!(server.get(&path(name, ISTIOS)).is_none(), "{name}");
    }
    assert_eq!(server.get(&path("theirs", ISTIOS)).unwrap(), foreign);
    bench.running.abort_all();
}

#[tokio::test]
async fn who_edits_in_a_loop_does_not_make_us_write_in_one() {
    let server = Server::new();
    namespace(&server, "shop");
    let mut bench = Bench::new(server.clone(), OwnIstioNames::Never).await;
    bench.until("shop", OURS).await;
    let writes = |server: &Server| server.calls(&format!("PATCH {}", path("shop", OURS)));
    let before = writes(&server);
    for i in 0..200 {
        server.put(&path("shop", OURS), json!({"metadata": {}, "data": {KEY: i.to_string()}}));
        tokio::task::yield_now().await;
    }
    bench.until("shop", OURS).await;
    assert!(writes(&server) - before <= 2, "{}", writes(&server) - before);
    bench.running.abort_all();
}
