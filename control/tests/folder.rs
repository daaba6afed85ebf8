//! The whole program without a cluster: manifests from a folder, callers from a token file, our own discovery client over
//! TLS. A change of a manifest reaches the client; whoever is not a node proxy gets nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chassis::Signals;
use control::app::{self, Control};
use control::config::Config;
use identity::channel::{ChannelConfig, TrustedRoots, grpc_channel};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::timeout;
use xds::Change;
use xds::client::{Changes, Client, ClientConfig, Handle, Node, Status, Token};

/// Longer than any scheduling delay of a busy machine.
const SOON: Duration = Duration::from_secs(30);

const NAME: &str = "culvert-control.culvert-system.svc";

const PROXY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-a, namespace: culvert-system}
spec: {serviceAccountName: ztunnel, nodeName: node-a, containers: []}
status: {phase: Running, podIP: 10.0.1.1, podIPs: [{ip: 10.0.1.1}]}
";

const TOKENS: &str = "
tokens:
- {token: token-of-ztunnel-a, namespace: culvert-system, serviceAccount: ztunnel, pod: ztunnel-a}
- {token: token-of-the-shop-1, namespace: shop, serviceAccount: web, pod: web}
- {token: token-of-the-waypoint, namespace: shop, serviceAccount: wp, pod: wp-1}
";

const WAYPOINT: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: wp.shop.svc.cluster.local}]}
---
apiVersion: v1
kind: Pod
metadata: {name: wp-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {serviceAccountName: wp, nodeName: node-a, containers: []}
status: {phase: Running, podIP: 10.0.1.9, podIPs: [{ip: 10.0.1.9}]}
";

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: unbound, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}
";

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: unbound, port: 80}]}]}
";

fn web(ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, uid: u-web}}\n\
         spec: {{serviceAccountName: web, nodeName: node-a, containers: []}}\n\
         status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}

/// A root, and a certificate of it for our name.
fn write_certificates(folder: &Path) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    fs::write(folder.join("root.pem"), root.self_signed(&root_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    fs::write(folder.join("tls.pem"), leaf.pem()).unwrap();
    fs::write(folder.join("tls-key.pem"), key.serialize_pem()).unwrap();
}

fn config(folder: &Path) -> Config {
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "source: {{folder: {}}}\ntokenFile: {}\ncertificate: {{files: {{certificate: {}, key: {}}}}}\n\
         listen: {{xds: '127.0.0.1:0', metrics: '127.0.0.1:0', health: '127.0.0.1:0', admin: '127.0.0.1:0'}}\n\
         pace: {{threads: 2}}\n",
        at("manifests"),
        at("tokens.yaml"),
        at("tls.pem"),
        at("tls-key.pem"),
    );
    document::parse("control.yaml", &text).unwrap()
}

struct Site {
    folder: tempfile::TempDir,
    address: std::net::SocketAddr,
    gate: chassis::Gate,
    drain: chassis::Drain,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        fs::write(manifests.join("proxy.yaml"), PROXY).unwrap();
        fs::write(manifests.join("web.yaml"), web("10.0.1.2")).unwrap();
        fs::write(folder.path().join("tokens.yaml"), TOKENS).unwrap();
        write_certificates(folder.path());
        let config = config(folder.path());
        app::check(&config).unwrap();
        let control = Control::prepare(config).await.unwrap();
        let (address, gate, drain) = (control.address(), control.gate().clone(), control.drain().clone());
        let signals = Signals::install().unwrap();
        let running = tokio::task::spawn_local(control.run(signals, None));
        Self { folder, address, gate, drain, running }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("manifests").join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join("manifests").join(name)).unwrap();
    }

    /// A client that shows a token and says it runs on a node.
    fn client(&self, token: &str, node: &str) -> Follower {
        let node = Node::ztunnel(self.address.ip(), "ztunnel-a", "culvert-system", node);
        self.follow(token, ClientConfig::ztunnel(node, false))
    }

    fn follow(&self, token: &str, config: ClientConfig) -> Follower {
        let roots = TrustedRoots::File(self.folder.path().join("root.pem"));
        let channel = grpc_channel(&ChannelConfig {
            alt_name: Some(NAME.to_owned()),
            ..ChannelConfig::new(format!("https://{}", self.address), roots)
        })
        .unwrap();
        let config = ClientConfig {
            token: Some(Token::Text(token.into())),
            cluster_id: Some("Kubernetes".to_owned()),
            ..config
        };
        let (client, handle) = Client::new(config);
        let (changes, changed) = mpsc::channel(16);
        let task = tokio::spawn(async move {
            let stopped = client.run(channel, Changes(changes)).await;
            tracing::debug!(%stopped, "client");
        });
        Follower { changed, handle, task }
    }

    /// A client that shows a token and says that it is a waypoint.
    fn waypoint(&self, token: &str) -> Follower {
        self.follow(token, ClientConfig::waypoint(Node::waypoint(self.address.ip(), "wp-1", "shop", "node-a")))
    }

    async fn end(self) {
        self.drain.begin(Duration::from_secs(5));
        timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

struct Follower {
    changed: mpsc::Receiver<Change>,
    handle: Handle,
    task: JoinHandle<()>,
}

impl Follower {
    /// The next change that satisfies.
    async fn until(&mut self, wanted: impl Fn(&Change) -> bool) -> Change {
        let found = async {
            loop {
                let change = self.changed.recv().await.unwrap();
                if wanted(&change) {
                    return change;
                }
            }
        };
        timeout(SOON, found).await.unwrap()
    }

    /// Why its streams end.
    async fn refused(&self) -> String {
        let mut status = self.handle.status();
        let seen = timeout(SOON, status.wait_for(|s: &Status| s.error.is_some())).await.unwrap().unwrap();
        assert!(!seen.ready(), "it got something");
        seen.error.clone().unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const WEB: &str = "Kubernetes//Pod/shop/web";

#[tokio::test]
async fn a_change_of_a_manifest_reaches_the_proxy() {
    LocalSet::new()
        .run_until(async {
            let site = Site::start().await;
            timeout(SOON, site.gate.ready()).await.unwrap();
            let mut proxy = site.client("token-of-ztunnel-a", "node-a");
            let has_web = |change: &Change| change.workloads.iter().any(|w| &*w.uid == WEB);
            let first = proxy.until(has_web).await;
            let of_web = |change: &Change| change.workloads.iter().find(|w| &*w.uid == WEB).unwrap().addresses.clone();
            assert_eq!(of_web(&first), ["10.0.1.2".parse::<std::net::IpAddr>().unwrap()]);

            site.write("web.yaml", &web("10.0.1.3"));
            let second = proxy.until(has_web).await;
            assert_eq!(of_web(&second), ["10.0.1.3".parse::<std::net::IpAddr>().unwrap()]);
            // What is broken changes nothing; what goes, goes.
            site.write("web.yaml", "kind: Pod\n");
            site.remove("web.yaml");
            proxy.until(|change| change.removed.contains(&Arc::from(WEB))).await;
            site.end().await;
        })
        .await;
}

#[tokio::test]
async fn whoever_is_no_node_proxy_of_that_node_gets_nothing() {
    LocalSet::new()
        .run_until(async {
            let site = Site::start().await;
            let (unknown, application) =
                (site.client("not-a-token-at-all", "node-a"), site.client("token-of-the-shop-1", "node-a"));
            let elsewhere = site.client("token-of-ztunnel-a", "node-b");
            for (client, wanted) in
                [(&unknown, "token"), (&application, "shop/web is not a node proxy's"), (&elsewhere, "NODE_NAME")]
            {
                let error = client.refused().await;
                assert!(error.contains(wanted), "{wanted}: {error}");
            }
            site.end().await;
        })
        .await;
}

#[tokio::test]
async fn a_proxy_whose_pod_goes_is_cut_off() {
    LocalSet::new()
        .run_until(async {
            let site = Site::start().await;
            let mut proxy = site.client("token-of-ztunnel-a", "node-a");
            proxy.until(|change| change.workloads.iter().any(|w| &*w.uid == WEB)).await;
            site.remove("proxy.yaml");
            let mut status = proxy.handle.status();
            let cut = |s: &Status| s.error.as_deref().is_some_and(|e| e.contains("is gone") || e.contains("has gone"));
            timeout(SOON, status.wait_for(cut)).await.unwrap().unwrap();
            site.end().await;
        })
        .await;
}

#[tokio::test]
async fn a_waypoint_hears_of_what_is_bound_to_it_and_follows_addresses_by_name() {
    LocalSet::new()
        .run_until(async {
            let site = Site::start().await;
            site.write("waypoint.yaml", WAYPOINT);
            site.write("services.yaml", SERVICES);
            site.write("web.yaml", &web("10.0.1.2").replace("uid: u-web", "uid: u-web, labels: {app: web}"));
            let mut waypoint = site.waypoint("token-of-the-waypoint");
            const KEY: &str = "shop/web.shop.svc.cluster.local";
            let routed = |change: &Change| change.routing.iter().find(|r| &*r.key == KEY).map(|r| r.service.clone());
            let first = waypoint.until(|change| routed(change).is_some()).await;
            assert!(routed(&first).unwrap().tables.is_empty());
            assert!(!first.routing.iter().any(|r| r.key.contains("unbound")), "it sees its own services only");
            assert!(first.services.is_empty() && first.policies.is_empty());

            site.write("route.yaml", ROUTE);
            let second = waypoint.until(|change| routed(change).is_some_and(|s| !s.tables.is_empty())).await;
            assert_eq!(routed(&second).unwrap().follows, ["shop/unbound.shop.svc.cluster.local"]);

            // A service's name brings its workloads along, now and later.
            waypoint.handle.demand(proto::ADDRESS_TYPE, KEY).await.unwrap();
            let has_web = |change: &Change| change.workloads.iter().any(|w| &*w.uid == WEB);
            let came = Cell::new(false);
            // Nobody is sent to the waypoint before it has answered that it knows the service: that may be a moment later.
            let sent = |s: &mesh::Service| s.key().to_string() == KEY && s.waypoint.is_some();
            let third = |change: &Change| {
                came.set(came.get() || has_web(change));
                came.get() && change.services.iter().any(&sent)
            };
            waypoint.until(third).await;
            site.write("web.yaml", &web("10.0.1.4").replace("uid: u-web", "uid: u-web, labels: {app: web}"));
            waypoint
                .until(|change| has_web(change) && change.workloads[0].addresses[0].to_string() == "10.0.1.4")
                .await;

            site.write("services.yaml", &SERVICES.replace("istio.io/use-waypoint: wp", "a: b"));
            waypoint.until(|change| change.removed_routing.contains(&KEY.into())).await;

            // Nobody else is a waypoint by saying so.
            let error = site.waypoint("token-of-the-shop-1").refused().await;
            assert!(error.contains("token says"), "{error}");
            site.end().await;
        })
        .await;
}
