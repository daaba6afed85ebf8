//! Connections and what is spoken on them.

use std::rc::Rc;

use bytes::Bytes;
use hbone::{StreamError, TunnelStream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use mesh::Workload;
use mesh::workload::{GatewayAddress, GatewayDestination, NamespacedHostname};
use proto::routing as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use xds::Change;

use super::harness::*;

/// An application that greets first, and then repeats what it hears.
async fn greeter(stream: TunnelStream) {
    let (mut recv, mut send) = stream.split();
    if send.send_all(Bytes::from_static(b"220 hello\r\n")).await.is_err() {
        return;
    }
    while let Ok(Some(bytes)) = recv.data().await {
        recv.release(bytes.len());
        if send.send_all(bytes).await.is_err() {
            return;
        }
    }
    send.finish().ok();
}

/// Reads until so many bytes are there.
async fn read(recv: &mut hbone::RecvHalf, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let bytes = recv.data().await.unwrap().expect("more bytes");
        recv.release(bytes.len());
        all.extend_from_slice(&bytes);
    }
    all
}

fn on_port(number: u32, protocol: wire::Protocol) -> wire::Service {
    let port = wire::Port { number, name: String::new(), protocol: protocol.into() };
    wire::Service { ports: vec![port], ..plain() }
}

#[test]
fn what_is_not_http_is_relayed_whoever_speaks_first() {
    run(async {
        let lab = Lab::new().await;
        lab.raw("api", "api-1", greeter).await;
        for (protocol, port) in [(wire::Protocol::Tcp, 80), (wire::Protocol::Detect, 81)] {
            lab.bind(on_port(port, protocol));
            let stream = lab.connect(&identity("shop", "web"), &format!("10.96.0.1:{port}")).await.unwrap();
            let (mut recv, mut send) = stream.split();
            assert_eq!(read(&mut recv, 11).await, b"220 hello\r\n");
            send.send_all(Bytes::from_static(b"EHLO\r\n")).await.unwrap();
            assert_eq!(read(&mut recv, 6).await, b"EHLO\r\n");
            send.finish().unwrap();
            assert!(recv.data().await.unwrap().is_none());
        }
        let closed = lab.metric("istio_tcp_connections_closed_total", &["reporter=\"waypoint\"", "ns/shop/sa/web"]);
        assert_eq!(closed, 2);
    });
}

#[test]
fn an_undeclared_port_speaks_http_to_those_who_do_also_after_a_silence() {
    run(async {
        let lab = Lab::with("detection: 20ms\n").await;
        lab.workload("api", "api-1", echo("api-1")).await;
        lab.bind(on_port(80, wire::Protocol::Detect));
        for silence in [false, true] {
            let io = io(lab.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap());
            if silence {
                // Longer than the waypoint waits: it has connected to the application, which says nothing.
                tokio::time::sleep(std::time::Duration::from_millis(60)).await;
            }
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            spawn_local(connection);
            let answer = Caller::Http1(sender).get("/a").await;
            assert!(answer.body.contains("x-forwarded-client-cert"), "treated as HTTP: {}", answer.body);
        }
        let io = io(lab.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap());
        let (sender, connection) =
            hyper::client::conn::http2::handshake(crate::local::LocalExecutor, io).await.unwrap();
        spawn_local(connection);
        assert!(Caller::Http2(sender).get("/a").await.body.contains("HTTP/2.0"));
    });
}

#[test]
fn a_port_that_is_http_answers_rubbish_as_http_does() {
    run(async {
        let lab = Lab::new().await;
        lab.workload("api", "api-1", echo("api-1")).await;
        lab.bind(plain());
        let stream = lab.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap();
        let (mut recv, mut send) = stream.split();
        send.send_all(Bytes::from_static(b"\x16\x03\x01\x00\x05hello\r\n\r\n")).await.unwrap();
        assert_eq!(read(&mut recv, 12).await[..12], *b"HTTP/1.1 400");
        // Two ways to tell where a body ends: smuggling (RFC 9112 6.1).
        let stream = lab.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap();
        let (mut recv, mut send) = stream.split();
        let request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        send.send_all(Bytes::from_static(request.as_bytes())).await.unwrap();
        assert_eq!(read(&mut recv, 12).await[..12], *b"HTTP/1.1 400");
        // No tunnel to a server that would read what comes in it as requests.
        let connect = "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n";
        let stream = lab.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap();
        let (mut recv, mut send) = stream.split();
        send.send_all(Bytes::from_static(connect.as_bytes())).await.unwrap();
        assert_eq!(read(&mut recv, 12).await[..12], *b"HTTP/1.1 405");
        // What comes behind it is no request of ours either; nobody reads it, which resets the stream.
        let stream = lab.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap();
        let (mut recv, mut send) = stream.split();
        let both = format!("{connect}GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        send.send_all(Bytes::from(both)).await.unwrap();
        let mut answer = Vec::new();
        while let Ok(Some(bytes)) = recv.data().await {
            recv.release(bytes.len());
            answer.extend_from_slice(&bytes);
        }
        assert!(!answer.windows(12).any(|w| w == b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    });
}

#[test]
fn only_what_is_bound_to_us_is_reached() {
    run(async {
        let lab = Lab::new().await;
        lab.workload("api", "api-1", echo("api-1")).await;
        let web = identity("shop", "web");
        let refused = async |authority: &str| match lab.connect(&web, authority).await {
            Err(StreamError::Status(status)) => status,
            other => panic!("{authority}: {other:?}"),
        };
        // Known, but not bound.
        assert!(refused("10.96.0.1:80").await >= 400);
        lab.bind(plain());
        let answer = lab.http1_as(&web, "10.96.0.1:80").await.get("/").await;
        assert_eq!(answer.status, 200);
        assert_eq!(lab.http1_as(&web, "api:80").await.get("/").await.status, 200, "by its host name");
        // A port that the service does not have, ourselves, and a stranger's name.
        assert!(refused("10.96.0.1:99").await >= 400);
        assert!(refused("10.0.0.7:15020").await >= 400);
        assert!(refused("other:80").await >= 400);
    });
}

#[test]
fn a_workload_of_ours_is_reached_by_its_address() {
    run(async {
        let lab = Lab::new().await;
        let one = lab.workload("api", "api-1", echo("api-1")).await;
        let own = Workload {
            uid: "c//Pod/shop/wp-1".into(),
            name: "wp-1".into(),
            namespace: "shop".into(),
            service_account: "waypoint".into(),
            addresses: vec![[10, 0, 0, 7].into()],
            services: [("shop/waypoint".into(), Default::default())].into(),
            ..Workload::default()
        };
        let hostname = NamespacedHostname { namespace: "shop".into(), hostname: "waypoint".into() };
        let ours = GatewayAddress { destination: GatewayDestination::Hostname(hostname), hbone_port: 15008 };
        let one = Workload { waypoint: Some(ours), ..one };
        let at = format!("{}:8080", one.addresses[0]);
        let waypoint = service("waypoint", [10, 96, 0, 9].into(), &[(15008, 15008)]);
        lab.apply(Change { services: vec![waypoint], workloads: vec![one, own], ..Change::default() });
        // Routes of the service do not hold for it, its policies do (it leads to this port).
        let deny = wire::Authorization {
            namespace: "shop".into(),
            name: "closed".into(),
            action: wire::AuthorizationAction::Deny.into(),
            rules: vec![wire::AuthorizationRule {
                to: vec![wire::Operation { paths: vec!["/closed".into()], ..Default::default() }],
                ..Default::default()
            }],
            ..Default::default()
        };
        lab.bind(wire::Service { authorizations: vec![deny], ..routed(vec![rule("/only", vec![backend("api", 1)])]) });
        let mut caller = lab.http1_as(&identity("shop", "web"), &at).await;
        assert_eq!(caller.get("/anything").await.status, 200);
        assert_eq!(caller.get("/closed").await.status, 403);
    });
}

#[test]
fn websockets_pass_both_ways() {
    run(async {
        let lab = Lab::new().await;
        let app: App = Rc::new(|mut request| {
            Box::pin(async move {
                assert_eq!(request.headers()["upgrade"], "websocket");
                let upgraded = hyper::upgrade::on(&mut request);
                spawn_local(async move {
                    let mut io = TokioIo::new(upgraded.await.unwrap());
                    let mut word = [0; 4];
                    io.read_exact(&mut word).await.unwrap();
                    word.reverse();
                    io.write_all(&word).await.unwrap();
                    io.shutdown().await.unwrap();
                });
                let answer =
                    Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
                answer.header("sec-websocket-accept", "x").body(Full::default()).unwrap()
            })
        });
        lab.workload("api", "api-1", app).await;
        lab.bind(plain());
        let io = io(lab.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        spawn_local(connection.with_upgrades());
        let request = Request::get("/ws").header("host", "a").header("connection", "keep-alive, Upgrade");
        let request = request.header("upgrade", "websocket").header("sec-websocket-key", "k");
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["sec-websocket-accept"], "x");
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        io.write_all(b"ping").await.unwrap();
        let mut back = Vec::new();
        io.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"gnip");
        drop(io);
        let upgraded = || lab.metric("istio_requests_total", &["response_code=\"101\""]) == 1;
        while !upgraded() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_large_body_streams_through_both_ways() {
    run(async {
        let lab = Lab::new().await;
        let app: App = Rc::new(|request| {
            Box::pin(async move {
                let mut body = request.into_body();
                let mut count = 0;
                while let Some(frame) = body.frame().await {
                    count += frame.unwrap().into_data().map_or(0, |data| data.len());
                }
                Response::new(Full::new("y".repeat(count).into()))
            })
        });
        lab.workload("api", "api-1", app).await;
        lab.bind(plain());
        let text = "x".repeat(20 << 20);
        for mut caller in [lab.http1().await, lab.http2().await] {
            let request = match &caller {
                Caller::Http1(_) => Request::post("/").header("host", "a"),
                Caller::Http2(_) => Request::post("http://a/"),
            };
            let answer = caller.send(request, &text).await;
            assert_eq!((answer.status, answer.body.len()), (200, text.len()));
        }
    });
}

#[test]
fn the_applications_own_tls_is_checked_inside_of_the_tunnel() {
    run(async {
        let lab = Lab::new().await;
        let made = rcgen::generate_simple_self_signed(["api.internal".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut server = server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(server));
        lab.raw("api", "api-1", move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(tls) = acceptor.accept(TokioIo::new(io(stream))).await else { return };
                let name = tls.get_ref().1.server_name().unwrap_or_default().to_owned();
                let service = hyper::service::service_fn(move |_| {
                    let name = name.clone();
                    async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(name)))) }
                });
                let mut builder = hyper::server::conn::http1::Builder::new();
                drop(builder.header_read_timeout(None).serve_connection(TokioIo::new(tls), service).await);
            }
        })
        .await;
        let tls =
            |name: &str| wire::BackendTls { server_name: name.into(), roots: made.cert.pem(), ..Default::default() };
        let traffic = |tls| Some(wire::Traffic { tls: Some(tls), ..Default::default() });
        lab.bind(wire::Service { traffic: traffic(tls("api.internal")), ..plain() });
        let mut caller = lab.http1().await;
        for _ in 0..2 {
            let answer = caller.get("/").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "api.internal"));
        }
        lab.bind(wire::Service { traffic: traffic(tls("other.internal")), ..plain() });
        assert_eq!(caller.get("/").await.status, 503, "another name is not accepted");
        // What a port says counts on that port, also that it has none; 80 is the port of the service.
        let on = |port: u32, own: wire::BackendTls, others: Option<wire::BackendTls>| {
            let port_tls = [(port, own)].into();
            Some(wire::Traffic { tls: others, port_tls, ..Default::default() })
        };
        let off = || wire::BackendTls { off: true, ..Default::default() };
        for (traffic, secured) in [
            (on(80, tls("api.internal"), None), true),
            (on(80, tls("api.internal"), Some(tls("other.internal"))), true),
            (on(81, tls("other.internal"), Some(tls("api.internal"))), true),
            (on(80, tls("other.internal"), Some(tls("api.internal"))), false),
            (on(81, tls("api.internal"), None), false),
            (on(80, off(), Some(tls("api.internal"))), false),
        ] {
            lab.bind(wire::Service { traffic: traffic.clone(), ..plain() });
            let answer = caller.get("/").await;
            assert_eq!((answer.status == 200, answer.body == "api.internal"), (secured, secured), "{traffic:?}");
        }
        let broken = wire::Invalid { reason: "no ConfigMap".into() };
        lab.bind(wire::Service {
            traffic: traffic(wire::BackendTls { invalid: Some(broken), ..tls("api.internal") }),
            ..plain()
        });
        assert_eq!(caller.get("/").await.status, 503, "and never in clear");
    });
}
