use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use mesh::{Direction, Outcome, PeerAddr};
use telemetry::flow::Line;
use telemetry::{LineWriter, LogConfig, LogHandle, Telemetry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::Subscriber;

use super::*;
use crate::drain::{Drain, State};
use crate::readiness::Gate;

const SOON: Duration = Duration::from_secs(10);

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A server for one test; it ends when `stop` is called or dropped.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    fn new(router: Router) -> Self {
        let server = Server::bind("test", loopback()).unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.serve(router, async {
            stopped.await.ok();
        }));
        Self { address, stop, task }
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let answer =
            self.raw(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "").await
    }

    async fn post(&self, path: &str) -> (u16, String) {
        self.ask("POST", path, "content-length: 0\r\n").await
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// A log; levels can be set as long as the guard lives.
fn log() -> (LogHandle, Box<dyn Subscriber + Send + Sync>) {
    let writer = LineWriter::new(std::io::sink(), 16).unwrap();
    let (subscriber, handle) = telemetry::logging::subscriber(&LogConfig::default(), writer, None).unwrap();
    (handle, Box::new(subscriber))
}

#[tokio::test]
async fn readiness_names_what_is_missing_and_ends_with_a_drain() {
    let (gate, drain) = (Gate::new(), Drain::new());
    let (discovery, pods) = (gate.condition("discovery"), gate.condition("pods"));
    let server = Running::new(readiness_routes(&gate, &drain));
    assert_eq!(server.get("/healthz/ready").await, (503, "not ready, waiting for: discovery, pods\n".to_owned()));
    discovery.met();
    assert_eq!(server.get("/healthz/ready").await, (503, "not ready, waiting for: pods\n".to_owned()));
    pods.met();
    assert_eq!(server.get("/healthz/ready").await, (200, "ready\n".to_owned()));
    drain.begin(SOON);
    assert_eq!(server.get("/healthz/ready").await, (503, "not ready: draining\n".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn metrics_are_served_on_both_paths() {
    let telemetry = Telemetry::new(telemetry::Config::default());
    telemetry.metrics().build_info("ztunnel", "test");
    let server = Running::new(metrics_routes(&telemetry));
    for path in ["/metrics", "/stats/prometheus"] {
        let answer = server.raw(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
            "{answer}"
        );
        assert!(answer.contains("istio_build{component=\"ztunnel\",tag=\"test\"} 1\n"), "{answer}");
        assert!(answer.ends_with("# EOF\n"));
    }
    server.end().await;
}

#[tokio::test]
async fn the_log_level_is_set_and_mistakes_are_told() {
    let ((log, _subscriber), drain) = (log(), Drain::new());
    let server = Running::new(admin_routes(&log, &drain, SOON));
    assert_eq!(server.get("/logging").await, (200, "current log level is info\n".to_owned()));
    let set = server.post("/logging?level=info%2Chbone%3Ddebug").await;
    assert_eq!(set, (200, "current log level is info,hbone=debug\n".to_owned()));
    let (status, text) = server.post("/logging?level=hbone%3Dloud").await;
    assert_eq!(status, 400);
    assert!(text.contains("hbone=loud"), "{text}");
    assert_eq!(log.level(), "info,hbone=debug");
    assert_eq!(server.post("/logging?reset").await.1, "current log level is info\n");
    server.end().await;
}

#[tokio::test]
async fn quitting_begins_the_drain_and_only_by_post() {
    let ((log, _subscriber), drain) = (log(), Drain::new());
    let server = Running::new(admin_routes(&log, &drain, SOON));
    let (status, text) = server.get("/quitquitquit").await;
    assert_eq!((status, drain.state()), (405, State::Running));
    assert!(text.contains("use POST"), "{text}");
    // A page in the user's browser.
    let (status, _) = server.ask("POST", "/quitquitquit", "content-length: 0\r\norigin: http://evil\r\n").await;
    assert_eq!((status, drain.state()), (403, State::Running));
    assert_eq!(server.post("/quitquitquit").await.0, 200);
    assert!(matches!(drain.state(), State::Draining(_)));
    assert_eq!(server.post("/quitquitquit").await, (200, "ending\n".to_owned()));
    assert_eq!(drain.state(), State::Forced);
    server.end().await;
}

#[tokio::test]
async fn what_is_not_there_says_so_with_a_remedy() {
    let ((log, _subscriber), drain) = (log(), Drain::new());
    let server = Running::new(admin_routes(&log, &drain, SOON));
    let (status, text) = server.get("/debug/pprof/heap").await;
    assert_eq!(status, 501);
    assert!(text.contains("run"), "{text}");
    let (status, text) = server.get("/nothing").await;
    assert_eq!(status, 404);
    assert!(text.contains("/logging"), "{text}");
    let (status, text) = server.get("/debug/memory").await;
    assert_eq!(status, 200);
    let memory: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(memory["resident_bytes"].as_u64().unwrap() > 1 << 20, "{text}");
    assert!(memory["open_files"].as_u64().unwrap() >= 3, "{text}");
    server.end().await;
}

#[tokio::test]
async fn programs_add_routes_that_read_query_and_body() {
    let router = Router::new().post("/echo", "echoes", |request: Request| async move {
        let words: Vec<_> = request.query.all("w").map(str::to_owned).collect();
        Reply::json(&(words, String::from_utf8_lossy(&request.body).into_owned()))
    });
    let server = Running::new(router.merge(Router::new().get("/other", "another", |_| async { Reply::text("x") })));
    let answer =
        server.raw("POST /echo?w=a+b&w=%C3%A4 HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi");
    let answer = answer.await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        serde_json::from_str::<(Vec<String>, String)>(body).unwrap(),
        (vec!["a b".into(), "ä".into()], "hi".into())
    );
    assert_eq!(server.get("/other").await, (200, "x".to_owned()));
    assert_eq!(server.ask("HEAD", "/other", "").await, (200, String::new()));
    assert!(server.get("/").await.1.contains("POST /echo  echoes"));
    server.end().await;
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let server = Running::new(Router::new().post("/x", "x", |_| async { Reply::text("read") }));
    let length = MAX_BODY + 1;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(format!("POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    // The server answers as soon as it has read too much, or by the announced length alone.
    stream.write_all(&vec![b'a'; length]).await.ok();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    server.end().await;
}

#[tokio::test]
async fn a_stream_goes_out_piece_by_piece_until_its_end() {
    let (sender, receiver) = mpsc::channel(1);
    let slot = std::sync::Mutex::new(Some(receiver));
    let router = Router::new().get("/follow", "streams", move |_| {
        let pieces = slot.lock().unwrap().take();
        async move {
            match pieces {
                Some(pieces) => Reply::stream("application/x-ndjson", pieces),
                None => Reply::error(StatusCode::CONFLICT, "taken"),
            }
        }
    });
    let server = Running::new(router);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /follow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    for piece in ["one", "two"] {
        sender.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        while !seen.contains(piece) {
            let mut buffer = [0; 1_024];
            let n = tokio::time::timeout(SOON, stream.read(&mut buffer)).await.unwrap().unwrap();
            assert!(n > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }
    drop(sender);
    stream.read_to_string(&mut seen).await.unwrap();
    assert!(seen.contains("transfer-encoding: chunked") && seen.ends_with("0\r\n\r\n"), "{seen}");
    server.end().await;
}

/// Ends a connection, so that there is a flow.
fn connection(telemetry: &Telemetry) {
    let source = mesh_address("10.0.0.1:1");
    telemetry::Record::new(telemetry, Direction::Inbound, PeerAddr(source), mesh_address("10.0.0.2:80"))
        .finish(Outcome::Closed);
}

fn mesh_address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn flows_are_read_by_cursor_and_followed_with_their_losses() {
    let config = telemetry::Config { flows: 3, ..telemetry::Config::default() };
    let telemetry = Telemetry::new(config);
    let server = Running::new(flow_routes(&telemetry));
    (0..5).for_each(|_| connection(&telemetry));
    // HTTP/1.0 answers are not chunked: the body is the lines alone.
    let answer = server.raw("GET /flows HTTP/1.0\r\n\r\n").await;
    let lines: Vec<Line> =
        answer.split_once("\r\n\r\n").unwrap().1.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| match line {
            Line::Flow(flow) => ("flow", flow.sequence),
            Line::Lost(count) => ("lost", *count),
        })
        .collect();
    assert_eq!(seen, [("lost", 2), ("flow", 2), ("flow", 3), ("flow", 4)]);

    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /flows?since=now&follow=true&max=2 HTTP/1.0\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    connection(&telemetry);
    connection(&telemetry);
    let mut rest = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.contains("\"sequence\":5,") && rest.contains("\"sequence\":6,"), "{rest}");
    assert_eq!(server.get("/flows?max=x").await, (400, "max=\"x\" is not a number\n".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_a_remedy() {
    let first = Server::bind("metrics", loopback()).unwrap();
    let error = Server::bind("metrics", first.address()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("metrics port {}: ", first.address())), "{error}");
    assert!(error.contains("ss -ltnp"), "{error}");
}

#[tokio::test]
async fn the_end_closes_idle_connections() {
    let server = Running::new(Router::new().get("/x", "x", |_| async { Reply::text("x") }));
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut seen = [0; 12];
    idle.read_exact(&mut seen).await.unwrap();
    let address = server.address;
    server.end().await;
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, idle.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[test]
fn queries_are_read_as_forms_are() {
    let query = Query::parse("a=1&b&c=%zz%2&a=2&&d=x%3Dy+z");
    assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((query.get("b"), query.get("c"), query.get("d")), (Some(""), Some("%zz%2"), Some("x=y z")));
    assert_eq!(query.get("e"), None);
}

#[test]
fn a_later_route_replaces_an_earlier_one() {
    let router = Router::new().route(Method::GET, "/x", "old", |_| async { Reply::text("old") }).route(
        Method::GET,
        "/x",
        "new",
        |_| async { Reply::text("new") },
    );
    let text = format!("{router:?}");
    assert_eq!(text, "[\"/x\"]");
}
