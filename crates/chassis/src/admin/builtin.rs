//! The routes that every program has.

use http::{Method, StatusCode};
use serde::Serialize;
use telemetry::{LogHandle, Telemetry};

use super::message::{Reply, Request};
use super::profile;
use super::router::Router;
use crate::drain::{Drain, State};
use crate::readiness::Gate;

/// Port 15021: `/healthz/ready`, 200 or 503 with what is missing. A program that drains is not ready.
pub fn readiness_routes(gate: &Gate, drain: &Drain) -> Router {
    let (gate, signal) = (gate.clone(), drain.signal());
    Router::new().get("/healthz/ready", "200 when ready, 503 with what is missing", move |_| {
        let (state, running) = (gate.state(), signal.is_running());
        async move {
            match state {
                _ if !running => Reply::error(StatusCode::SERVICE_UNAVAILABLE, "not ready: draining"),
                Ok(()) => Reply::text("ready\n"),
                Err(missing) => Reply::error(StatusCode::SERVICE_UNAVAILABLE, missing.to_string()),
            }
        }
    })
}

/// Port 15020: `/metrics` and `/stats/prometheus`.
pub fn metrics_routes(telemetry: &Telemetry) -> Router {
    let scrape = |telemetry: Telemetry| {
        move |_: Request| {
            let telemetry = telemetry.clone();
            async move { Reply::with(StatusCode::OK, telemetry::metrics::CONTENT_TYPE, telemetry.render()) }
        }
    };
    Router::new().get("/metrics", "OpenMetrics text", scrape(telemetry.clone())).get(
        "/stats/prometheus",
        "the same, where Istio's annotations point",
        scrape(telemetry.clone()),
    )
}

/// Port 15000: `/logging`, `/quitquitquit`, `/debug/*`.
pub fn admin_routes(log: &LogHandle, drain: &Drain, deadline: std::time::Duration) -> Router {
    let (show, set) = (log.clone(), log.clone());
    let drain = drain.clone();
    Router::new()
        .get("/logging", "the log levels now", move |_| {
            let text = current(&show);
            async move { Reply::text(text) }
        })
        .post("/logging", "?level=info,hbone=debug sets the log levels, ?level=reset goes back", move |request| {
            let reply = logging(&set, &request);
            async move { reply }
        })
        // As the signals do: the second one does not wait (hbone.md 11).
        .post("/quitquitquit", "drains and ends; while it drains: ends at once", move |_| {
            let begins = drain.state() == State::Running;
            tracing::info!(at_once = !begins, "asked to end by /quitquitquit");
            if begins {
                drain.begin(deadline);
            } else {
                drain.force();
            }
            async move { Reply::text(if begins { "draining\n" } else { "ending\n" }) }
        })
        .get("/debug/memory", "memory of the process, from /proc/self", |_| async { memory() })
        .route(Method::GET, "/debug/pprof/heap", "not available; says what to use", |_| async { no_heap_profile() })
        .get("/debug/pprof/profile", "a CPU profile for `pprof`; ?seconds=10 says how long", profile::cpu)
}

fn current(log: &LogHandle) -> String {
    format!("current log level is {}\n", log.level())
}

fn logging(log: &LogHandle, request: &Request) -> Reply {
    let level = request.query.get("level").filter(|l| !l.is_empty());
    // istioctl sends `?reset` to go back.
    let level = level.or_else(|| request.query.get("reset").map(|_| "reset"));
    let Some(level) = level else { return Reply::text(current(log)) };
    match log.set_level(level) {
        Ok(()) => Reply::text(current(log)),
        Err(error) => Reply::error(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

/// What `/proc/self/status` says (proc(5)), in bytes.
#[derive(Debug, Serialize)]
struct Memory {
    total_bytes: u64,
    resident_bytes: u64,
    shared_bytes: u64,
    data_bytes: u64,
    open_files: usize,
    threads: usize,
}

fn memory() -> Reply {
    match read_memory() {
        Ok(memory) => Reply::json(&memory),
        Err(error) => Reply::error(StatusCode::INTERNAL_SERVER_ERROR, format!("/proc/self: {error}")),
    }
}

fn read_memory() -> std::io::Result<Memory> {
    // VmRSS and its like are in kB whatever the page size is, unlike statm.
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Ok(Memory {
        total_bytes: kilobytes("VmSize"),
        resident_bytes: kilobytes("VmRSS"),
        shared_bytes: kilobytes("RssFile") + kilobytes("RssShmem"),
        data_bytes: kilobytes("VmData"),
        // The listing itself holds one.
        open_files: std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1),
        threads: std::fs::read_dir("/proc/self/task")?.count(),
    })
}

/// The C library's allocator keeps no record of who asked for memory.
fn no_heap_profile() -> Reply {
    let what = "this build takes no heap profiles; read /debug/memory, or run the program under heaptrack or \
                valgrind --tool=massif";
    Reply::error(StatusCode::NOT_IMPLEMENTED, what)
}
