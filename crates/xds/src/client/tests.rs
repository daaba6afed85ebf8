use std::net::IpAddr;
use std::sync::Mutex;

use ::mesh::Workload;
use ::mesh::authz::{Action, Authorization, Scope};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

use super::*;
use crate::Change;
use crate::server::{Authorise, Batch, Caller, Entry, Everybody, Grant, Server, Store};

/// Longer than any run of these tests should need; reached only when an event never comes.
const PATIENCE: Duration = Duration::from_secs(20);
const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

pub(super) fn node() -> Node {
    Node::ztunnel(IP, "zt", "istio-system", "n1")
}

pub(super) fn resource(name: &str, version: &str, aliases: &[&str]) -> Resource {
    let aliases = aliases.iter().map(|a| (*a).to_owned()).collect();
    Resource { name: name.into(), version: version.into(), aliases, ..Default::default() }
}

pub(super) fn response(
    type_url: &str,
    nonce: &str,
    resources: Vec<Resource>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources,
        removed_resources: removed.iter().map(|r| (*r).to_owned()).collect(),
        ..Default::default()
    }
}

#[test]
fn a_token_does_not_show() {
    assert_eq!(format!("{:?}", Token::Text("hidden".into())), "Text(..)");
}

fn pod(name: &str, last: u8) -> Workload {
    Workload {
        uid: format!("c//Pod/s/{name}").into(),
        name: name.into(),
        namespace: "s".into(),
        addresses: vec![[10, 0, 0, last].into()],
        ..Workload::default()
    }
}

fn policy(name: &str) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: "s".into(),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![],
        dry_run: false,
    }
}

struct Running {
    handle: Handle,
    changes: mpsc::Receiver<Change>,
    task: JoinHandle<Stopped>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn fast(mut config: ClientConfig) -> ClientConfig {
    config.backoff = (Duration::from_millis(2), Duration::from_millis(20));
    config
}

fn run<T>(config: ClientConfig, transport: T) -> Running
where
    T: tonic::client::GrpcService<tonic::body::Body> + Send + 'static,
    T::Future: Send,
    T::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let (client, handle) = Client::new(fast(config));
    let (sender, changes) = mpsc::channel(4);
    Running { handle, changes, task: tokio::spawn(client.run(transport, Changes(sender))) }
}

impl Running {
    async fn change(&mut self) -> Change {
        timeout(PATIENCE, self.changes.recv()).await.expect("a change").expect("a running client")
    }

    async fn status(&self, is: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.handle.status();
        timeout(PATIENCE, status.wait_for(is)).await.expect("a status").unwrap().clone()
    }
}

/// Changes until the first picture is complete, as one.
async fn first_picture(running: &mut Running) -> Change {
    let mut all = Change::default();
    while !all.synced {
        let c = running.change().await;
        all.workloads.extend(c.workloads);
        all.services.extend(c.services);
        all.policies.extend(c.policies);
        all.synced = c.synced;
    }
    all
}

#[tokio::test]
async fn client_and_server_agree_on_the_world_and_its_changes() {
    let store = Store::for_mesh();
    let first = Change { workloads: vec![pod("a", 1)], policies: vec![policy("p")], ..Change::default() };
    store.apply_change(&first).unwrap();
    let server = Server::new(store.clone(), Everybody);
    let mut running = run(ClientConfig::ztunnel(node(), false), server.clone().into_service());
    let all = first_picture(&mut running).await;
    assert_eq!((all.workloads, all.policies), (first.workloads, first.policies));
    assert!(running.status(Status::ready).await.connected);

    let next = Change {
        removed: vec!["c//Pod/s/a".into()],
        workloads: vec![pod("b", 2)],
        removed_policies: vec!["s/p".into()],
        ..Change::default()
    };
    store.apply_change(&next).unwrap();
    let (one, two) = (running.change().await, running.change().await);
    assert_eq!(
        (one.removed_policies, two.removed, two.workloads),
        (next.removed_policies, next.removed, next.workloads)
    );
    for type_url in [ADDRESS_TYPE, AUTHORIZATION_TYPE] {
        let revision = store.revision(type_url).unwrap();
        timeout(PATIENCE, server.acknowledged(type_url, revision)).await.unwrap();
    }
    assert_eq!(server.clients().values().next().unwrap().types[ADDRESS_TYPE].held, 1);
    drop(running);
    let mut bell = server.watch();
    timeout(PATIENCE, async {
        while !server.clients().is_empty() {
            bell.changed().await.unwrap();
        }
    })
    .await
    .expect("a client that left is forgotten");
}

#[tokio::test]
async fn a_demand_is_answered_with_what_there_is_or_that_there_is_nothing() {
    let store = Store::for_mesh();
    store.apply_change(&Change { workloads: vec![pod("a", 1), pod("b", 2)], ..Change::default() }).unwrap();
    let mut running = run(ClientConfig::ztunnel(node(), true), Server::new(store, Everybody).into_service());
    running.status(Status::ready).await;
    running.handle.demand(ADDRESS_TYPE, "/10.0.0.2").await.unwrap();
    running.handle.demand(ADDRESS_TYPE, "/10.0.0.3").await.unwrap();
    let (mut found, mut answered) = (Vec::new(), Vec::new());
    while answered.len() < 2 {
        let change = running.change().await;
        found.extend(change.workloads);
        answered.extend(change.answered);
    }
    assert_eq!(found, [pod("b", 2)]);
    answered.sort();
    assert_eq!(answered, ["/10.0.0.2".into(), "/10.0.0.3".into()]);
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_is_refused_alone_and_the_server_knows() {
    let store = Store::for_mesh();
    let mut bad = Entry::workload(&pod("bad", 9));
    bad.body = vec![0xff, 0xff].into();
    let upserts = vec![bad, Entry::workload(&pod("good", 1))];
    store.apply(ADDRESS_TYPE, Batch { removals: vec![], upserts }).unwrap();
    let server = Server::new(store.clone(), Everybody);
    let mut running = run(ClientConfig::ztunnel(node(), false), server.clone().into_service());
    let mut workloads = Vec::new();
    while workloads.is_empty() {
        workloads = running.change().await.workloads;
    }
    assert_eq!(workloads, [pod("good", 1)]);
    let status = running.status(|s| s.last_nack.is_some()).await;
    assert!(status.last_nack.unwrap().starts_with("c//Pod/s/bad: not a readable message"));
    assert!(status.waiting_for.contains(&ADDRESS_TYPE));
    // Put right, it is taken and acknowledged.
    let upserts = vec![Entry::workload(&pod("bad", 9))];
    let revision = store.apply(ADDRESS_TYPE, Batch { removals: vec![], upserts }).unwrap();
    timeout(PATIENCE, server.acknowledged(ADDRESS_TYPE, revision)).await.unwrap();
    let report = server.clients().values().next().unwrap().types[ADDRESS_TYPE].clone();
    assert_eq!((report.nacks, report.refused, report.held), (1, 0, 2));
    running.status(Status::ready).await;
}

type Script = Vec<Result<DeltaDiscoveryResponse, tonic::Status>>;

/// A server that plays a script: each stream gets one list of responses, and notes what it was asked.
#[derive(Clone, Default)]
struct Scripted {
    scripts: Arc<Mutex<Vec<Script>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Clone, Debug)]
struct Seen {
    authorization: String,
    cluster: String,
    extra: String,
    first: Vec<DeltaDiscoveryRequest>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Scripted {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, tonic::Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, tonic::Status> {
        let header = |name: &str| request.metadata().get(name).map_or("", |v| v.to_str().unwrap()).to_owned();
        let (authorization, cluster, extra) = (header("authorization"), header("clusterid"), header("x-extra"));
        let mut incoming = request.into_inner();
        let mut first = Vec::new();
        for _ in 0..2 {
            first.push(incoming.message().await?.unwrap());
        }
        self.seen.lock().unwrap().push(Seen { authorization, cluster, extra, first });
        let script = {
            let mut scripts = self.scripts.lock().unwrap();
            if scripts.is_empty() { None } else { Some(scripts.remove(0)) }
        };
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            for step in script.iter().flatten().cloned() {
                let answered = step.is_ok();
                if sender.send(step).await.is_err() || (answered && !matches!(incoming.message().await, Ok(Some(_)))) {
                    return;
                }
            }
            // Without a script the stream stays open until the client goes.
            if script.is_none() {
                sender.closed().await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn wire(w: &Workload, version: &str) -> Resource {
    let entry = Entry::workload(w);
    let any = prost_types::Any { type_url: ADDRESS_TYPE.into(), value: entry.body.to_vec() };
    Resource { resource: Some(any), ..resource(&entry.name, version, &[]) }
}

#[tokio::test]
async fn streams_that_end_are_opened_again_with_what_is_held_and_a_fresh_token() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "one\n").unwrap();
    let scripted = Scripted::default();
    *scripted.scripts.lock().unwrap() = vec![
        vec![
            Ok(response(ADDRESS_TYPE, "1", vec![wire(&pod("a", 1), "v1"), wire(&pod("b", 2), "v1")], &[])),
            Ok(response(AUTHORIZATION_TYPE, "2", vec![], &[])),
        ],
        vec![Ok(response(ADDRESS_TYPE, "1", vec![], &["c//Pod/s/a"])), Err(tonic::Status::unavailable("restarting"))],
    ];
    let mut config = ClientConfig::ztunnel(node(), false);
    config.token = Some(Token::File(token.clone()));
    config.cluster_id = Some("c1".into());
    config.headers = [("X-Extra".to_owned(), "yes".to_owned())].into();
    let mut running = run(config, AggregatedDiscoveryServiceServer::new(scripted.clone()));
    let all = first_picture(&mut running).await;
    assert_eq!(all.workloads.len(), 2);
    std::fs::write(&token, "two").unwrap();
    assert_eq!(running.change().await.removed, ["c//Pod/s/a".into()]);
    // The third stream stays open.
    timeout(PATIENCE, async {
        while scripted.seen.lock().unwrap().len() < 3 {
            running.handle.status().changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    let seen = scripted.seen.lock().unwrap().clone();
    assert_eq!(
        (seen[0].authorization.as_str(), seen[0].cluster.as_str(), seen[0].extra.as_str()),
        ("Bearer one", "c1", "yes")
    );
    assert_eq!(seen[2].authorization, "Bearer two");
    let versions = |i: usize| seen[i].first[0].initial_resource_versions.keys().cloned().collect::<Vec<_>>();
    assert!(versions(0).is_empty());
    assert_eq!(versions(1), ["c//Pod/s/a", "c//Pod/s/b"]);
    assert_eq!(versions(2), ["c//Pod/s/b"]);
    assert!(seen.iter().all(|s| s.first[0].node.is_some() && s.first[1].node.is_none()));
}

#[tokio::test]
async fn without_a_token_file_there_is_no_stream_and_the_status_says_why() {
    let mut config = ClientConfig::ztunnel(node(), false);
    config.token = Some(Token::File("/nonexistent/token".into()));
    let running = run(config, Server::new(Store::for_mesh(), Everybody).into_service());
    let status = running.status(|s| s.error.is_some()).await;
    assert!(!status.ready());
    assert!(status.error.unwrap().contains("/nonexistent/token"));
}

struct OnlyBearer;

impl Authorise for OnlyBearer {
    async fn authorise(&self, caller: &Caller<'_>) -> Result<Arc<dyn Grant>, tonic::Status> {
        let fits = caller.metadata.get("authorization").is_some_and(|v| v == "Bearer right");
        let named = caller.node.id.starts_with("ztunnel~");
        if fits && named { Ok(Arc::new(Everybody)) } else { Err(tonic::Status::unauthenticated("who are you?")) }
    }
}

#[tokio::test]
async fn the_server_serves_over_a_socket_and_only_whom_it_knows() {
    let store = Store::for_mesh();
    store.apply_change(&Change { workloads: vec![pod("a", 1)], ..Change::default() }).unwrap();
    let listener = tokio::net::TcpListener::bind((IP, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Server::new(store, OnlyBearer).into_service();
    let server = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((io, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let http = Builder::new(TokioExecutor::new()).http2_only();
            connections.spawn(async move { http.serve_connection(TokioIo::new(io), service).await });
        }
    });
    let channel = tonic::transport::Endpoint::new(format!("http://{address}")).unwrap().connect_lazy();

    let mut config = ClientConfig::ztunnel(node(), false);
    let stranger = run(config.clone(), channel.clone());
    let status = stranger.status(|s| s.error.is_some()).await;
    assert!(status.error.unwrap().contains("who are you?"));
    config.token = Some(Token::Text("right".into()));
    let mut known = run(config, channel);
    assert_eq!(first_picture(&mut known).await.workloads, [pod("a", 1)]);
    server.abort();
    known.status(|s| s.error.is_some()).await;
}

#[tokio::test]
async fn the_client_ends_when_nobody_applies_what_comes() {
    let store = Store::for_mesh();
    store.apply_change(&Change { workloads: vec![pod("a", 1)], ..Change::default() }).unwrap();
    let (client, _handle) = Client::new(ClientConfig::ztunnel(node(), false));
    let (sender, changes) = mpsc::channel(1);
    drop(changes);
    let run = client.run(Server::new(store, Everybody).into_service(), Changes(sender));
    assert_eq!(timeout(PATIENCE, run).await.unwrap(), Stopped);
}
