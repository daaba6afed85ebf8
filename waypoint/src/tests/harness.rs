//! A waypoint's worker between a caller and workloads, all in this process, over loopback.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chassis::Drain;
use hbone::{ClientLimits, Head, Headers, ResponseHeaders, ServerLimits, TunnelStream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use identity::{Manager, SignedChain, Signer, Signing, stream};
use mesh::workload::{PortMap, TunnelProtocol, Workload};
use mesh::{Identity, NetworkAddress, Service};
use proto::routing as wire;
use proxy::News;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa};
use rcgen::{Issuer, KeyPair, SanType};
use telemetry::Telemetry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use xds::{Change, Routing};

use crate::addresses::Addresses;
use crate::bound;
use crate::config::Config;
use crate::here::{Room, Shared, Worker};
use crate::io::TunnelIo;
use crate::local::LocalExecutor;
use crate::tunnel;

/// Longer than any run of these tests should need; reached only when an event never comes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The virtual address of `shop/api`.
pub(super) const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// Runs a test on one thread, as a worker runs.
pub(super) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { tokio::time::timeout(PATIENCE, test).await.expect("test hangs") })
}

/// An authority that signs whatever it is asked for.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root }
    }
}

impl Signer for Authority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr: &'a str, _: Duration) -> Signing<'a> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        csr.params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        csr.params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        csr.params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        let leaf = csr.signed_by(&self.issuer).unwrap().pem();
        let chain = SignedChain { leaf, intermediates: Vec::new(), roots: self.root.clone() };
        Box::pin(async { Ok(chain) })
    }
}

/// What an application answers.
pub(super) type App = Rc<dyn Fn(Request<Incoming>) -> Answering>;
pub(super) type Answering = std::pin::Pin<Box<dyn Future<Output = Response<Full<Bytes>>>>>;

/// A mesh of one waypoint.
pub(super) struct Lab {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Rc<Worker>,
    pub(super) drain: Drain,
    /// Where the waypoint takes tunnels.
    at: SocketAddr,
    /// First two numbers of the workloads' addresses.
    block: u16,
    workloads: RefCell<u8>,
}

pub(super) fn identity(namespace: &str, account: &str) -> Identity {
    Identity::new("cluster.local", namespace, account).unwrap()
}

impl Lab {
    pub(super) async fn new() -> Self {
        Self::with("").await
    }

    /// With more settings.
    pub(super) async fn with(settings: &str) -> Self {
        let text = format!(
            "ownPod: {{ name: wp-1, namespace: shop, address: 10.0.0.7 }}\nserviceAccount: waypoint\n\
             xds: {{ address: 'https://c:1', rootFile: /r, tokenFile: /t }}\n\
             ca: {{ address: 'https://c:1', rootFile: /r, tokenFile: /t }}\n{settings}"
        );
        let config: Config = document::parse("test.yaml", &text).unwrap();
        let drain = Drain::new();
        let telemetry = Telemetry::new(telemetry::Config::default());
        let shared = Arc::new(Shared {
            own: config.identity().unwrap(),
            world: Arc::default(),
            tables: Default::default(),
            addresses: Addresses::default(),
            identities: Manager::new(identity::Config::default(), Arc::new(Authority::new())),
            calls: crate::external::counters(telemetry.metrics()),
            telemetry,
            drain: drain.signal(),
            connections: Room::new(config.limits.connections),
            handshakes: Room::new(config.limits.handshakes),
            config,
        });
        let worker = Worker::new(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let accepting = worker.clone();
        spawn_local(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                spawn_local(tunnel::serve(accepting.clone(), tcp));
            }
        });
        let watching = worker.clone();
        spawn_local(async move { watching.watch().await });
        // Addresses that no other test of this or another process uses.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let block = (std::process::id() as u16 ^ NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(257)) | 0x0100;
        let lab = Self { shared, worker, drain, at, block, workloads: RefCell::new(1) };
        lab.apply(Change { services: vec![service("api", VIP, &[(80, 8080), (81, 8081)])], ..Change::default() });
        lab
    }

    pub(super) fn apply(&self, change: Change) {
        self.shared.world.apply(change);
        self.worker.refresh();
    }

    /// Binds a service as control says it.
    pub(super) fn bind(&self, service: wire::Service) {
        let key: Arc<str> = format!("{}/{}", service.namespace, service.hostname).into();
        let news = News { routing: vec![Routing { key, service }], ..News::default() };
        bound::apply(&self.shared, news);
        self.worker.refresh();
    }

    /// A workload of a service, with a node proxy before it, that answers requests.
    pub(super) async fn workload(&self, service: &str, name: &str, app: App) -> Workload {
        let (workload, listener) = self.place(service, name).await;
        let identities = self.shared.identities.clone();
        let own = workload.identity().unwrap();
        spawn_local(node_proxy(listener, identities, own, move |stream| {
            let app = app.clone();
            async move { serve(stream, app).await }
        }));
        workload
    }

    /// A workload whose application takes connections as they are.
    pub(super) async fn raw<F>(&self, service: &str, name: &str, app: impl Fn(TunnelStream) -> F + 'static) -> Workload
    where
        F: Future<Output = ()> + 'static,
    {
        let (workload, listener) = self.place(service, name).await;
        let own = workload.identity().unwrap();
        spawn_local(node_proxy(listener, self.shared.identities.clone(), own, app));
        workload
    }

    async fn place(&self, service: &str, name: &str) -> (Workload, TcpListener) {
        let last = self.workloads.replace_with(|n| *n + 1);
        let [a, b] = self.block.to_be_bytes();
        let ip = Ipv4Addr::new(127, a, b, last);
        let workload = Workload {
            uid: format!("c//Pod/shop/{name}").into(),
            name: name.into(),
            namespace: "shop".into(),
            service_account: name.into(),
            addresses: vec![ip.into()],
            tunnel: TunnelProtocol::Hbone,
            services: BTreeMap::from([(format!("shop/{service}").into(), PortMap::default())]),
            ..Workload::default()
        };
        let listener = TcpListener::bind((ip, 15008)).await.unwrap();
        self.apply(Change { workloads: vec![workload.clone()], ..Change::default() });
        (workload, listener)
    }

    /// A tunnel of a caller, with one connection to `authority` on it.
    pub(super) async fn connect(&self, caller: &Identity, authority: &str) -> Result<TunnelStream, hbone::StreamError> {
        let certificate = self.shared.identities.certificate(caller).await.unwrap();
        let tcp = TcpStream::connect(self.at).await.unwrap();
        let config = certificate.client_config(std::slice::from_ref(&self.shared.own)).unwrap();
        let (io, _) = stream::connect(tcp, config).await.unwrap();
        let (client, driver) = hbone::connect(io, &ClientLimits::default()).await.unwrap();
        spawn_local(async move {
            // How it ends is seen by the streams.
            drop(driver.await);
        });
        let head = Head { authority: authority.into(), headers: Headers::default() };
        client.open(&head).await.map(|(stream, _)| stream)
    }

    /// An HTTP/1 connection of the caller `shop/web` to the service.
    pub(super) async fn http1(&self) -> Caller {
        self.http1_as(&identity("shop", "web"), "10.96.0.1:80").await
    }

    pub(super) async fn http1_as(&self, caller: &Identity, authority: &str) -> Caller {
        let io = io(self.connect(caller, authority).await.unwrap());
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        spawn_local(connection.with_upgrades());
        Caller::Http1(sender)
    }

    /// An HTTP/2 connection of the same.
    pub(super) async fn http2(&self) -> Caller {
        let io = io(self.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap());
        let (sender, connection) = hyper::client::conn::http2::handshake(LocalExecutor, io).await.unwrap();
        spawn_local(connection);
        Caller::Http2(sender)
    }

    /// The value of a metric's only series that has all these parts; 0 when there is none.
    pub(super) fn metric(&self, name: &str, parts: &[&str]) -> u64 {
        let text = self.shared.telemetry.render();
        let fits = |line: &&str| line.starts_with(name) && parts.iter().all(|part| line.contains(part));
        text.lines().find(fits).map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
    }
}

/// A caller's HTTP connection.
pub(super) enum Caller {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: String,
    pub(super) trailers: Option<http::HeaderMap>,
}

impl Caller {
    pub(super) async fn send(&mut self, request: http::request::Builder, body: &str) -> Answer {
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::Http2(sender) => sender.send_request(request).await.unwrap(),
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned();
        let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        Answer { status: head.status.as_u16(), headers: head.headers, body, trailers }
    }

    /// A GET, in the form of the protocol.
    pub(super) async fn get(&mut self, path: &str) -> Answer {
        let builder = match self {
            Self::Http1(_) => Request::get(path).header("host", "api.shop"),
            Self::Http2(_) => Request::get(format!("http://api.shop{path}")),
        };
        self.send(builder, "").await
    }
}

pub(super) fn io(stream: TunnelStream) -> TunnelIo {
    let (recv, send) = stream.split();
    TunnelIo::new(recv, send, Bytes::new())
}

/// What a node proxy does at its end: prove the workload, and hand streams over.
async fn node_proxy<F>(
    listener: TcpListener,
    identities: Manager,
    own: Identity,
    app: impl Fn(TunnelStream) -> F + 'static,
) where
    F: Future<Output = ()> + 'static,
{
    let app = Rc::new(app);
    while let Ok((tcp, _)) = listener.accept().await {
        let certificate = identities.certificate(&own).await.unwrap();
        let (io, _) = stream::accept(tcp, certificate.server_config()).await.unwrap();
        let mut server = hbone::serve(io, ServerLimits::default());
        let app = app.clone();
        spawn_local(async move {
            while let Some(Ok(request)) = server.accept().await {
                let Ok(stream) = request.accept(&ResponseHeaders::default()) else { continue };
                spawn_local(app(stream));
            }
        });
    }
}

/// An HTTP server of both versions.
async fn serve(stream: TunnelStream, app: App) {
    let (mut recv, send) = stream.split();
    let Ok(Some(first)) = recv.data().await else { return };
    let http2 = sniff::guess(&first) == sniff::Guess::Http2;
    let io = TunnelIo::new(recv, send, first);
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app(request).await) }
    });
    // How a connection ends is seen by the other end.
    if http2 {
        drop(hyper::server::conn::http2::Builder::new(LocalExecutor).serve_connection(io, service).await);
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.header_read_timeout(None);
        drop(builder.serve_connection(io, service).with_upgrades().await);
    }
}

/// An application that tells what it was asked.
pub(super) fn echo(name: &'static str) -> App {
    Rc::new(move |request| {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            let mut lines = vec![format!("{name} {} {} {:?}", head.method, head.uri, head.version)];
            lines.extend(head.headers.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v.as_bytes()))));
            lines.push(format!("body: {}", String::from_utf8_lossy(&body)));
            Response::new(Full::new(lines.join("\n").into()))
        })
    })
}

/// A service with the name `<name>` in `shop`, also as its host name.
pub(super) fn service(name: &str, vip: IpAddr, ports: &[(u16, u16)]) -> Service {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: name.into(),
        vips: vec![NetworkAddress::new("", vip)],
        ports: PortMap(ports.iter().copied().collect()),
        ..Service::default()
    }
}

/// What control says of a service with nothing attached, whose port 80 is HTTP.
pub(super) fn plain() -> wire::Service {
    wire::Service {
        namespace: "shop".into(),
        hostname: "api".into(),
        ports: vec![wire::Port { number: 80, name: "http".into(), protocol: wire::Protocol::Http.into() }],
        ..wire::Service::default()
    }
}

/// The same with HTTP routes on port 80.
pub(super) fn routed(rules: Vec<wire::Rule>) -> wire::Service {
    let kind = wire::table::Kind::Http(wire::HttpTable { grpc: false, rules });
    wire::Service { tables: vec![wire::Table { port: 80, kind: Some(kind), ..Default::default() }], ..plain() }
}

pub(super) fn backend(service: &str, weight: u32) -> wire::Backend {
    wire::Backend { weight, service: format!("shop/{service}"), port: 80, ..Default::default() }
}

/// A rule for a prefix of paths.
pub(super) fn rule(prefix: &str, backends: Vec<wire::Backend>) -> wire::Rule {
    let path = wire::PathMatch { kind: Some(wire::path_match::Kind::Prefix(prefix.into())) };
    wire::Rule { matches: vec![wire::Match { path: Some(path), ..Default::default() }], backends, ..Default::default() }
}

pub(super) fn filter(kind: wire::filter::Kind) -> wire::Filter {
    wire::Filter { kind: Some(kind) }
}

pub(super) fn seconds(text: f64) -> Option<prost_types::Duration> {
    Some(Duration::from_secs_f64(text).try_into().unwrap())
}
