//! `/flows`: what happened lately, one JSON object a line, and on request what happens next.

use bytes::Bytes;
use http::StatusCode;
use telemetry::{Flows, Telemetry};
use tokio::sync::mpsc;

use super::message::{Query, Reply, Request};
use super::router::Router;

/// Flows read from the ring at a time: some 500 KB of lines, so that a slow reader holds little.
const PAGE: usize = 512;
/// Pages that wait for a slow reader; beyond them the ring overwrites, and the stream says how much it lost.
const AHEAD: usize = 2;

/// `/flows?since=<cursor>|now&max=<number>&follow=true`: lines of [`telemetry::flow::Line`].
///
/// `since` is a cursor: a flow's `sequence` plus one; 0 (the default) is all that is kept, `now` nothing of it.
pub fn flow_routes(telemetry: &Telemetry) -> Router {
    let flows = telemetry.flows().clone();
    Router::new().get(
        "/flows",
        "?since=<cursor>|now&max=<n>&follow=true, one JSON object a line",
        move |request: Request| {
            let answer = match Wanted::read(&request.query, &flows) {
                Ok(wanted) => {
                    let (sender, pieces) = mpsc::channel(AHEAD);
                    tokio::spawn(send(flows.clone(), wanted, sender));
                    Reply::stream("application/x-ndjson", pieces)
                }
                Err(text) => Reply::error(StatusCode::BAD_REQUEST, text),
            };
            async move { answer }
        },
    )
}

struct Wanted {
    cursor: u64,
    left: u64,
    follow: bool,
}

impl Wanted {
    fn read(query: &Query, flows: &Flows) -> Result<Self, String> {
        let number =
            |name: &str, text: &str| text.parse::<u64>().map_err(|_| format!("{name}={text:?} is not a number"));
        let cursor = match query.get("since") {
            None => 0,
            Some("now") => flows.head(),
            Some(text) => number("since", text)?,
        };
        let left = query.get("max").map_or(Ok(u64::MAX), |text| number("max", text))?;
        let follow = match query.get("follow") {
            None | Some("false") => false,
            Some("" | "true") => true,
            Some(other) => return Err(format!("follow={other:?} is neither true nor false")),
        };
        Ok(Self { cursor, left, follow })
    }
}

/// Sends pages until there is nothing left to send, or nobody reads.
async fn send(flows: Flows, wanted: Wanted, pieces: mpsc::Sender<Bytes>) {
    let Wanted { mut cursor, mut left, follow } = wanted;
    // Without following, what happens while we send is not asked for.
    let end = if follow { u64::MAX } else { flows.head() };
    while left > 0 && cursor < end {
        let most = (PAGE as u64).min(left).min(end - cursor);
        let page = flows.since(cursor, most as usize);
        (cursor, left) = (page.next, left - page.flows.len() as u64);
        let mut text = Vec::new();
        for line in page.lines() {
            // Numbers, texts and addresses only: it can be written.
            if serde_json::to_writer(&mut text, &line).is_ok() {
                text.push(b'\n');
            }
        }
        if !text.is_empty() && pieces.send(text.into()).await.is_err() {
            return;
        }
        if follow && left > 0 {
            tokio::select! {
                () = flows.wait(cursor) => {}
                () = pieces.closed() => return,
            }
        }
    }
}
