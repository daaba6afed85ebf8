//! What happens when endpoints fail, are slow, or go.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use proto::routing as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xds::Change;

use super::harness::*;

/// An application that answers with these statuses in turn, and then with 200 and the body.
fn failing(statuses: &'static [u16]) -> (App, Rc<Cell<usize>>) {
    let calls = Rc::new(Cell::new(0));
    let counted = calls.clone();
    let app: App = Rc::new(move |request| {
        let call = counted.replace(counted.get() + 1);
        Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let status = statuses.get(call).copied().unwrap_or(200);
            Response::builder().status(status).body(Full::new(body)).unwrap()
        })
    });
    (app, calls)
}

fn retried(attempts: u32, codes: &[u32]) -> wire::Rule {
    let retry = wire::Retry { attempts, codes: codes.to_vec(), backoff: None };
    wire::Rule { retry: Some(retry), ..rule("/", vec![backend("api", 1)]) }
}

#[test]
fn a_request_is_sent_again_with_its_body_as_the_route_says() {
    run(async {
        let lab = Lab::new().await;
        let (app, calls) = failing(&[503, 503]);
        lab.workload("api", "api-1", app).await;
        lab.bind(routed(vec![retried(2, &[503])]));
        let mut caller = lab.http1().await;
        let answer = caller.send(Request::post("/").header("host", "a"), "small").await;
        assert_eq!((answer.status, answer.body.as_str(), calls.get()), (200, "small", 3));

        // The last answer stands; a code that is not listed stands at once; a body that is not kept is sent once.
        let (app, calls) = failing(&[503, 503, 503, 500, 503]);
        lab.apply(Change { removed: vec!["c//Pod/shop/api-1".into()], ..Change::default() });
        lab.workload("api", "api-2", app).await;
        assert_eq!((caller.get("/").await.status, calls.get()), (503, 3));
        assert_eq!((caller.get("/").await.status, calls.get()), (500, 4));
        let large = "x".repeat(100 * 1024);
        let answer = caller.send(Request::post("/").header("host", "a"), &large).await;
        assert_eq!((answer.status, calls.get()), (503, 5));
    });
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_passed_over_when_the_route_retries() {
    run(async {
        let lab = Lab::new().await;
        let gone = lab.workload("api", "api-0", echo("api-0")).await;
        lab.workload("api", "api-1", echo("api-1")).await;
        // Nobody listens at this address.
        let nobody = mesh::Workload { addresses: vec![[127, 255, 255, 254].into()], ..gone };
        lab.apply(Change { workloads: vec![nobody], ..Change::default() });
        lab.bind(routed(vec![retried(1, &[])]));
        let mut caller = lab.http1().await;
        for _ in 0..20 {
            let answer = caller.get("/").await;
            assert!(answer.status == 200 && answer.body.starts_with("api-1"), "{answer:?}");
        }
        lab.bind(routed(vec![rule("/", vec![backend("api", 1)])]));
        lab.apply(Change { removed: vec!["c//Pod/shop/api-1".into()], ..Change::default() });
        assert_eq!(caller.get("/").await.status, 503);
        assert!(lab.metric("istio_requests_total", &["response_flags=\"UF\"", "response_code=\"503\""]) > 0);
    });
}

#[test]
fn a_request_takes_no_longer_than_its_route_allows() {
    run(async {
        let lab = Lab::new().await;
        let slow: App = Rc::new(|_| Box::pin(std::future::pending()));
        lab.workload("api", "api-1", slow).await;
        let limited = wire::Rule { request_timeout: seconds(0.05), ..rule("/whole", vec![backend("api", 1)]) };
        let tried = wire::Rule { backend_timeout: seconds(0.05), ..rule("/attempt", vec![backend("api", 1)]) };
        lab.bind(routed(vec![limited, tried]));
        let mut caller = lab.http1().await;
        for path in ["/whole", "/attempt"] {
            assert_eq!(caller.get(path).await.status, 504, "{path}");
        }
        assert_eq!(lab.metric("istio_requests_total", &["response_flags=\"UT\""]), 2);
    });
}

#[test]
fn a_connection_that_the_server_closed_costs_no_request() {
    run(async {
        let lab = Lab::new().await;
        let closing: App = Rc::new(|_| {
            Box::pin(async { Response::builder().header("connection", "close").body(Full::default()).unwrap() })
        });
        lab.workload("api", "api-1", closing).await;
        lab.bind(plain());
        let mut caller = lab.http1().await;
        for _ in 0..10 {
            let answer = caller.get("/").await;
            assert_eq!(answer.status, 200);
            assert!(!answer.headers.contains_key("connection"), "what the server says of its connection is its own");
        }
    });
}

#[test]
fn connections_to_endpoints_are_kept_and_shared() {
    run(async {
        let lab = Lab::new().await;
        let connections = Rc::new(Cell::new(0));
        let counted = connections.clone();
        lab.raw("api", "api-1", move |stream| {
            counted.set(counted.get() + 1);
            async move {
                let service = hyper::service::service_fn(|_| async {
                    Ok::<_, std::convert::Infallible>(Response::new(Full::<bytes::Bytes>::default()))
                });
                let mut builder = hyper::server::conn::http1::Builder::new();
                drop(builder.header_read_timeout(None).serve_connection(io(stream), service).await);
            }
        })
        .await;
        lab.bind(plain());
        for _ in 0..3 {
            let mut caller = lab.http1().await;
            for _ in 0..5 {
                assert_eq!(caller.get("/").await.status, 200);
            }
        }
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn a_drain_answers_what_is_under_way_and_lets_connections_end() {
    run(async {
        let lab = Lab::with("drain: 4s\n").await;
        lab.workload("api", "api-1", echo("api-1")).await;
        lab.bind(plain());
        let (mut one, mut two) = (lab.http1().await, lab.http2().await);
        assert_eq!((one.get("/").await.status, two.get("/").await.status), (200, 200));
        lab.drain.begin(Duration::from_secs(20));
        // New ones are still taken, and work as before, until callers have heard of the end.
        assert_eq!(lab.http1().await.get("/").await.status, 200);
        loop {
            let answer = one.get("/").await;
            assert_eq!(answer.status, 200);
            if let Some(close) = answer.headers.get("connection") {
                assert_eq!(close, "close");
                break;
            }
        }
    });
}

#[test]
fn an_endpoint_that_fails_again_and_again_gets_nothing_for_a_while() {
    run(async {
        let lab = Lab::new().await;
        let (bad, calls) = failing(&[500; 1000]);
        lab.workload("api", "api-0", bad).await;
        lab.workload("api", "api-1", echo("api-1")).await;
        let outliers = wire::Outliers { consecutive_5xx: 3, max_ejection_percent: 50, ..Default::default() };
        let traffic =
            wire::Traffic { outliers: Some(outliers), balance: wire::Balance::RoundRobin.into(), ..Default::default() };
        lab.bind(wire::Service { traffic: Some(traffic), ..plain() });
        let mut caller = lab.http1().await;
        for _ in 0..40 {
            caller.get("/").await;
        }
        assert_eq!(calls.get(), 3);
    });
}

/// An HTTP/2 server by hand: refuses this many requests unprocessed (or resets them with another code), and answers the others.
async fn refusing(stream: hbone::TunnelStream, left: Rc<Cell<u32>>, code: u32) -> std::io::Result<()> {
    /// Of RFC 9113 6: DATA has 0.
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const END_STREAM_AND_HEADERS: u8 = 5;
    let frame = |kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream, payload].concat()
    };
    let mut io = TokioIo::new(io(stream));
    io.read_exact(&mut [0; 24]).await?;
    io.write_all(&frame(SETTINGS, 0, [0; 4], &[])).await?;
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        io.read_exact(&mut payload).await?;
        let answer = match (kind, flags) {
            (SETTINGS, 0) => frame(SETTINGS, 1, [0; 4], &[]),
            (HEADERS, _) if left.get() > 0 => {
                left.set(left.get() - 1);
                frame(RST_STREAM, 0, stream, &code.to_be_bytes())
            }
            // `:status: 200`, entry 8 of the static table (RFC 7541 A).
            (HEADERS, _) => frame(HEADERS, END_STREAM_AND_HEADERS, stream, &[0x88]),
            _ => continue,
        };
        io.write_all(&answer).await?;
    }
}

#[test]
fn what_a_server_did_not_process_is_sent_again_and_nothing_else() {
    // REFUSED_STREAM, and INTERNAL_ERROR, which says nothing of what was done (RFC 9113 7).
    for (code, status) in [(7, 200), (2, 503)] {
        run(async {
            let lab = Lab::new().await;
            let left = Rc::new(Cell::new(1));
            let counted = left.clone();
            lab.raw("api", "api-1", move |stream| {
                let left = counted.clone();
                async move { drop(refusing(stream, left, code).await) }
            })
            .await;
            lab.bind(routed(vec![retried(1, &[])]));
            let answer = lab.http2().await.get("/").await;
            assert_eq!((answer.status, left.get()), (status, 0), "code {code}");
        });
    }
}
