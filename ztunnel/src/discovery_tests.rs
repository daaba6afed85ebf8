use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use chassis::Drain;
use chassis::readiness::Gate;
use identity::server::{Limits, ServerTls, serve};
use identity::{Manager, SignError, Signer, Signing};
use mesh::authz::{Action, Authorization, Rule, Scope};
use mesh::{Direction, Identity, PeerAddr, Workload};
use net::netns::NetNs;
use policy::{Connection, Subject, Verdict};
use proxy::World;
use telemetry::{Record, Telemetry};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xds::Change;
use xds::server::{Authorise, Batch, Caller, Entry, Everybody, Grant, Server, Store};

use super::*;
use crate::budget::Budget;
use crate::here::{Here, Shared, WorkerState};
use crate::judge;
use crate::outbound::outbound;
use crate::pod::{Pod, PodInfo};

/// Longer than any run of these tests should need; reached only when an event never comes.
const PATIENCE: Duration = Duration::from_secs(20);
const POD_NETWORKS: &str = "type.googleapis.com/culvert.network.v1.PodNetworks";
const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// Signs nothing: these tests need no certificate.
struct NoSigner;

impl Signer for NoSigner {
    fn sign<'a>(&'a self, _: &'a Identity, _: &'a str, _: Duration) -> Signing<'a> {
        Box::pin(async { Err(SignError::Local("not in this test".to_owned())) })
    }
}

/// A control plane on a port of this machine, with a certificate for `plane.test`.
struct Plane {
    store: Store,
    server: Server<Tokens>,
    address: SocketAddr,
    tls: (String, String),
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// Lets in who shows the token and says who it is.
#[derive(Debug)]
struct Tokens(&'static str);

impl Authorise for Tokens {
    async fn authorise(&self, caller: &Caller<'_>) -> Result<Arc<dyn Grant>, tonic::Status> {
        let header = |name| caller.metadata.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let said = (header("authorization"), header("clusterid"), header("x-extra"), caller.node.id.as_str());
        let wanted = "ztunnel~10.0.0.9~zt-1.mesh~mesh.svc.cluster.local";
        let texts = |name: &str| {
            let field = caller.node.metadata.as_ref().and_then(|m| m.fields.get(name)).and_then(|v| v.kind.clone());
            format!("{field:?}")
        };
        let metadata = ["NAMESPACE", "CLUSTER_ID", "EXTRA"].map(texts);
        let right = metadata[0].contains("\"mesh\"") && metadata[1].contains("\"c1\"") && metadata[2].contains("7.0");
        if said == (format!("Bearer {}", self.0), "c1".to_owned(), "yes".to_owned(), wanted) && right {
            Ok(Arc::new(Everybody))
        } else {
            Err(tonic::Status::permission_denied(format!("{said:?} {metadata:?}")))
        }
    }
}

impl Plane {
    async fn new(folder: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["plane.test".to_owned()]).unwrap();
        let tls = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(folder.join("root.pem"), &tls.0).unwrap();
        std::fs::write(folder.join("token"), "open sesame\n").unwrap();
        let store = Store::new([POD_NETWORKS, AUTHORIZATION, ADDRESS]);
        let mut plane = Self {
            server: Server::new(store.clone(), Tokens("open sesame")),
            store,
            address: ([127, 0, 0, 1], 0).into(),
            tls,
            running: None,
        };
        plane.start().await;
        plane
    }

    async fn start(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let tls = Arc::new(ServerTls::from_pem(&self.tls.0, &self.tls.1).unwrap());
        let limits = Limits { drain: Duration::ZERO, ..Limits::default() };
        let service = self.server.clone().into_service();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = async move {
            let shutdown = async { drop(stopped.await) };
            serve(listener, tls, limits, service, shutdown).await.unwrap();
        };
        self.running = Some((stop, tokio::spawn(run)));
    }

    /// Cuts all connections and closes the port.
    async fn stop(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.send(()).unwrap();
        timeout(PATIENCE, running).await.unwrap().unwrap();
    }

    fn put(&self, change: &Change) {
        self.store.apply_change(change).unwrap();
    }
}

/// A node proxy's discovery, without the rest of it.
struct Proxy {
    shared: Arc<Shared>,
    gate: Gate,
    following: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Proxy {
    fn start(plane: &Plane, folder: &Path) -> Self {
        Self::start_with(plane, folder, "")
    }

    fn start_with(plane: &Plane, folder: &Path, more: &str) -> Self {
        let text = format!(
            "node: n1
cluster: c1
ownPod: {{ name: zt-1, namespace: mesh, address: 10.0.0.9 }}
xds:
  address: 'https://{}'
  altName: plane.test
  rootFile: {root}
  tokenFile: {token}
  headers: {{ X-Extra: 'yes' }}
  metadata: {{ EXTRA: 7 }}
ca: {{ address: 'https://127.0.0.1:1', rootFile: {root}, tokenFile: {token} }}
{more}
",
            plane.address,
            root = folder.join("root.pem").display(),
            token = folder.join("token").display(),
        );
        let config: Config = document::parse("test.yaml", &text).unwrap();
        let shared = Arc::new(Shared {
            pods: Arc::default(),
            world: Arc::new(World::with_pod_networks(config.pod_networks())),
            identities: Manager::new(identity::Config::default(), Arc::new(NoSigner)),
            telemetry: Telemetry::new(telemetry::Config::default()),
            drain: Drain::new().signal(),
            names: None,
            config: config.clone(),
        });
        let gate = Gate::new();
        let (worker, _commands) = mpsc::unbounded_channel();
        let follower = follower(&shared, vec![worker], gate.condition("discovery"));
        let following = tokio::spawn({
            let shared = shared.clone();
            async move {
                let plane = config.xds.as_ref().unwrap();
                let ended = follow(follower, &shared, plane).await;
                panic!("following ended: {ended:?}");
            }
        });
        Self { shared, gate, following }
    }

    /// Waits until the world is as wanted.
    async fn until(&self, what: &str, is: impl Fn(&World) -> bool) {
        let mut version = self.shared.world.version();
        let wait = async {
            while !is(&self.shared.world) {
                version.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    fn knows(&self, uid: &str) -> bool {
        self.shared.world.directory().workload(uid).is_some()
    }

    fn metric(&self, line: &str) -> bool {
        self.shared.telemetry.render().lines().any(|l| l == line)
    }

    /// Waits for a line of the metrics, which follow the streams without an event of their own.
    async fn metric_comes(&self, line: &str) {
        let wait = async {
            while !self.metric(line) {
                // A scrape has no event to wait for.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{line} is not in\n{}", self.shared.telemetry.render()));
    }

    /// What the record of a refused connection to a pod says.
    async fn refused_flow(&self, to: &Workload) -> String {
        let held = self.shared.world.directory().workload(&to.uid).unwrap();
        let info = PodInfo {
            name: held.name.clone(),
            namespace: held.namespace.clone(),
            service_account: held.service_account.clone(),
        };
        let pod =
            Pod::new(to.uid.clone(), info, NetNs::current().unwrap(), Budget::new(crate::budget::Limits::default()));
        let (from, at) = (([10, 0, 0, 1], 40_000).into(), (to.addresses[0], 80).into());
        let mut record = Record::new(&self.shared.telemetry, Direction::Inbound, PeerAddr(from), at);
        let outcome = judge::permit(&self.shared.world, &pod, connection(to), &mut record).await.unwrap_err();
        record.finish(outcome);
        let page = self.shared.telemetry.flows().since(0, 10);
        page.flows.iter().find_map(|flow| flow.error.clone()).unwrap()
    }

    fn verdict(&self, to: &Workload) -> Verdict {
        policy::judge(&self.shared.world.policies(), &Subject::from(to), &connection(to)).verdict
    }
}

fn connection(to: &Workload) -> Connection {
    Connection {
        source: Some(Identity::new("cluster.local", "shop", "client").unwrap()),
        source_ip: [10, 0, 0, 1].into(),
        destination_ip: to.addresses[0],
        destination_port: 80,
    }
}

fn pod(namespace: &str, name: &str, last: u8) -> Workload {
    Workload {
        uid: format!("c1//Pod/{namespace}/{name}").into(),
        name: name.into(),
        namespace: namespace.into(),
        addresses: vec![[10, 0, 0, last].into()],
        ..Workload::default()
    }
}

fn policy_of(scope: Scope, action: Action, rules: Vec<Rule>) -> Authorization {
    Authorization { name: "p".into(), namespace: "shop".into(), scope, action, rules, dry_run: false }
}

/// The policy with an action that this version does not know: of two values of a field the last one counts.
fn from_the_future(policy: &Authorization) -> Batch {
    let mut entry = Entry::authorization(policy);
    entry.body = [&*entry.body, &[4 << 3, 9]].concat().into();
    Batch { removals: Vec::new(), upserts: vec![entry] }
}

#[tokio::test]
async fn the_world_follows_the_control_plane_through_its_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut plane = Plane::new(folder.path()).await;
    plane.put(&Change { workloads: vec![pod("shop", "a", 1), pod("shop", "b", 2)], ..Change::default() });
    let proxy = Proxy::start(&plane, folder.path());
    timeout(PATIENCE, proxy.gate.ready()).await.expect("ready");
    assert!(proxy.knows("c1//Pod/shop/a") && proxy.knows("c1//Pod/shop/b"));
    proxy.metric_comes("culvert_xds_connected 1.0").await;

    plane.stop().await;
    proxy.metric_comes("culvert_xds_connected 0.0").await;
    // What was known stays known, and ready stays ready.
    assert!(proxy.knows("c1//Pod/shop/a") && proxy.gate.state().is_ok());
    plane.put(&Change {
        removed: vec!["c1//Pod/shop/a".into()],
        workloads: vec![pod("shop", "c", 3)],
        ..Change::default()
    });
    plane.start().await;
    proxy
        .until("c comes and a goes", |w| {
            let now = w.directory();
            now.workload("c1//Pod/shop/c").is_some() && now.workload("c1//Pod/shop/a").is_none()
        })
        .await;
    assert!(proxy.knows("c1//Pod/shop/b"));
    proxy.metric_comes("culvert_xds_connected 1.0").await;
    let text = proxy.shared.telemetry.render();
    assert!(text.contains("istio_xds_connection_terminations_total{reason="), "{text}");
    assert!(text.contains(&format!("istio_xds_message_total{{url=\"{ADDRESS}\"}}")), "{text}");
}

#[tokio::test]
async fn a_policy_that_is_not_understood_permits_nothing_until_it_is_and_the_rest_applies() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(folder.path()).await;
    let (covered, other) = (pod("shop", "a", 1), pod("else", "b", 2));
    plane.put(&Change { workloads: vec![covered.clone(), other.clone()], ..Change::default() });
    let open = policy_of(Scope::Namespace, Action::Allow, vec![Rule::default()]);
    plane.store.apply(AUTHORIZATION, from_the_future(&open)).unwrap();
    let proxy = Proxy::start(&plane, folder.path());
    proxy.until("the stand-in", |w| w.policies().get("shop/p").is_some()).await;
    proxy.until("the workloads", |w| w.directory().workload("c1//Pod/else/b").is_some()).await;
    assert!(matches!(proxy.verdict(&covered), Verdict::Denied(_)));
    assert!(matches!(proxy.verdict(&other), Verdict::Permitted(_)));
    let why = proxy.shared.world.not_understood(&covered).unwrap();
    assert!(why.starts_with("policy shop/p could not be understood"), "{why}");
    assert_eq!(proxy.shared.world.not_understood(&other), None);
    let said = proxy.refused_flow(&covered).await;
    assert!(said.starts_with("denied by shop/p rule 0; policy shop/p could not be understood"), "{said}");
    proxy.metric_comes("culvert_xds_rejected_resources 1.0").await;
    assert!(proxy.gate.state().is_err(), "the first picture has a hole");

    // Put right, it holds; wrong again, the version that was understood goes on.
    let put = |batch| plane.store.apply(AUTHORIZATION, batch).unwrap();
    put(Batch { removals: Vec::new(), upserts: vec![Entry::authorization(&open)] });
    proxy.until("the real one", |w| w.not_understood(&covered).is_none()).await;
    assert!(matches!(proxy.verdict(&covered), Verdict::Permitted(_)));
    proxy.metric_comes("culvert_xds_rejected_resources 0.0").await;
    timeout(PATIENCE, proxy.gate.ready()).await.expect("ready");
    put(from_the_future(&open));
    proxy.metric_comes("culvert_xds_rejected_resources 1.0").await;
    assert!(matches!(proxy.verdict(&covered), Verdict::Permitted(_)));
    put(Batch { removals: vec!["shop/p".into()], upserts: Vec::new() });
    proxy.until("it is gone", |w| w.policies().is_empty()).await;
    proxy.metric_comes("culvert_xds_rejected_resources 0.0").await;
}

#[tokio::test]
async fn a_plane_that_we_do_not_trust_is_not_listened_to() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(folder.path()).await;
    plane.put(&Change { workloads: vec![pod("shop", "a", 1)], ..Change::default() });
    let other = rcgen::generate_simple_self_signed(["plane.test".to_owned()]).unwrap();
    std::fs::write(folder.path().join("root.pem"), other.cert.pem()).unwrap();
    let proxy = Proxy::start(&plane, folder.path());
    proxy.metric_comes("istio_xds_connection_terminations_total{reason=\"ConnectionError\"} 2").await;
    assert!(!proxy.knows("c1//Pod/shop/a") && proxy.gate.state().is_err());
    // The right root, put in place while the proxy runs, is found by the next attempt.
    std::fs::write(folder.path().join("root.pem"), &plane.tls.0).unwrap();
    timeout(PATIENCE, proxy.gate.ready()).await.expect("ready");
    assert!(proxy.knows("c1//Pod/shop/a"));
}

/// Puts the pod networks there; without blocks, something that cannot be read.
fn networks(plane: &Plane, blocks: &[&str]) {
    let mut entry = Entry::pod_networks(&blocks.iter().map(|b| b.parse().unwrap()).collect::<Vec<_>>());
    if blocks.is_empty() {
        entry.body = [0xff].into();
    }
    plane.store.apply(POD_NETWORKS, Batch { removals: Vec::new(), upserts: vec![entry] }).unwrap();
}

fn shown(world: &World) -> String {
    world.pod_networks().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn pod_networks_of_control_join_the_configured_ones() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(folder.path()).await;
    networks(&plane, &["10.2.0.0/16"]);
    let keys = "podCIDRs: [10.9.0.0/16]\npodCIDRsFromControl: true";
    let proxy = Proxy::start_with(&plane, folder.path(), keys);
    timeout(PATIENCE, proxy.gate.ready()).await.expect("ready");
    assert_eq!(shown(&proxy.shared.world), "10.2.0.0/16 10.9.0.0/16");
    networks(&plane, &["10.3.0.0/16", "fd00::/64"]);
    proxy.until("the next ones", |w| shown(w) == "10.3.0.0/16 10.9.0.0/16 fd00::/64").await;
    networks(&plane, &[]);
    proxy.metric_comes("culvert_xds_rejected_resources 1.0").await;
    assert_eq!(shown(&proxy.shared.world), "10.3.0.0/16 10.9.0.0/16 fd00::/64", "what was known stays");

    // Not told that the control plane is Culvert's, it does not ask.
    let stranger = Proxy::start(&plane, folder.path());
    timeout(PATIENCE, stranger.gate.ready()).await.expect("ready");
    assert_eq!(shown(&stranger.shared.world), "");
}

#[tokio::test]
async fn an_unknown_address_in_a_network_of_control_is_held_and_refused_and_never_dialled() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(folder.path()).await;
    let web = pod("shop", "web", 1);
    plane.put(&Change { workloads: vec![web.clone()], ..Change::default() });
    networks(&plane, &["127.77.0.0/16"]);
    let proxy = Proxy::start_with(&plane, folder.path(), "podCIDRsFromControl: true");
    timeout(PATIENCE, proxy.gate.ready()).await.expect("ready");

    // Who would dial it comes to the listener that stands for port 15001 here.
    let captured = TcpListener::bind("127.77.0.9:0").await.unwrap();
    let mut app = TcpStream::connect(captured.local_addr().unwrap()).await.unwrap();
    let (stream, _) = captured.accept().await.unwrap();
    let info = PodInfo {
        name: web.name.clone(),
        namespace: web.namespace.clone(),
        service_account: web.service_account.clone(),
    };
    let budget = Budget::new(crate::budget::Limits::default());
    let pod = Pod::new(web.uid.clone(), info, NetNs::current().unwrap(), budget);
    let worker = Rc::new(WorkerState::default());
    let alive = worker.enter();
    let here = Rc::new(Here::new(proxy.shared.clone(), worker, Arc::new(pod)));
    tokio::select! {
        () = outbound(here, stream, alive) => {}
        dialled = captured.accept() => panic!("dialled in clear: {dialled:?}"),
    }
    let page = proxy.shared.telemetry.flows().since(0, 10);
    let said = page.flows.iter().map(|f| f.error.clone().unwrap_or_default()).collect::<Vec<_>>();
    assert!(said.len() == 1 && said[0].contains("127.77.0.9"), "{said:?}");
    assert_eq!(app.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn an_address_that_a_pod_has_is_no_nodes() {
    let world = World::new();
    let node = Some([[10, 0, 0, 1].into(), [192, 168, 0, 1].into()].into());
    let web = Workload { node_addresses: node.clone(), ..pod("shop", "web", 9) };
    let from = |ip: [u8; 4]| Connection { source: None, source_ip: ip.into(), ..connection(&web) };
    let exempt = |world: &World, ip| judge::subject(world, &web, &from(ip)).node.is_some();
    assert!(exempt(&world, [10, 0, 0, 1]) && exempt(&world, [192, 168, 0, 1]));
    let host = Workload { network_mode: mesh::workload::NetworkMode::HostNetwork, ..pod("shop", "host", 7) };
    let host = Workload { addresses: vec![[192, 168, 0, 1].into()], ..host };
    world.apply(Change { workloads: vec![pod("shop", "first", 1), host], ..Change::default() });
    assert!(!exempt(&world, [10, 0, 0, 1]), "a network plug-in that gives pods the first address");
    assert!(exempt(&world, [192, 168, 0, 1]), "pods of the host's network have their node's address");
}
