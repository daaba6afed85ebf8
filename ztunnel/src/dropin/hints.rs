//! Variables that change nothing here: taken, looked at for mistakes, and left.

use super::environment::Reader;

/// What a hint holds.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Flag,
    Number,
    Span,
    Text,
}

/// Each with why it changes nothing.
pub(super) const HINTS: [(&str, Kind, &str); 16] = [
    ("SERVICE_ACCOUNT", Kind::Text, "the token says it"),
    ("RUST_BACKTRACE", Kind::Text, "the runtime of the language reads it"),
    ("HTTP2_STREAM_WINDOW_SIZE", Kind::Number, "windows are sized for latency and memory together"),
    ("HTTP2_CONNECTION_WINDOW_SIZE", Kind::Number, "windows are sized for latency and memory together"),
    ("HTTP2_FRAME_SIZE", Kind::Number, "the largest frame that we take is fixed"),
    ("POOL_MAX_STREAMS_PER_CONNECTION", Kind::Number, "100 and the peer's limit hold"),
    ("POOL_UNUSED_RELEASE_TIMEOUT", Kind::Span, "5 minutes hold"),
    ("KEEPALIVE_ENABLED", Kind::Flag, "TCP keep-alive is always on"),
    ("KEEPALIVE_TIME", Kind::Span, "180 s hold"),
    ("KEEPALIVE_INTERVAL", Kind::Span, "180 s hold"),
    ("KEEPALIVE_RETRIES", Kind::Number, "9 probes hold"),
    ("USER_TIMEOUT_ENABLED", Kind::Flag, "keep-alive and HTTP/2 PING find dead peers"),
    ("LOCALHOST_APP_TUNNEL", Kind::Flag, "the application is reached at its pod's address"),
    ("ENABLE_RESPONSE_BAGGAGE", Kind::Flag, "baggage is always sent"),
    ("ENABLE_ENHANCED_BAGGAGE", Kind::Flag, "baggage always has all keys"),
    ("PROXY_WORKLOAD_INFO", Kind::Text, "only PROXY_MODE=dedicated uses it"),
];

/// Reports hints that hold nonsense, and logs nothing: a default chart sets several of them.
pub(super) fn check(reader: &mut Reader<'_>) {
    for (name, kind, _) in HINTS {
        match kind {
            Kind::Flag => drop(reader.flag(name)),
            Kind::Number => drop(reader.parsed(name, "use a number", |text| text.parse::<u32>().ok())),
            Kind::Span => drop(reader.span(name)),
            Kind::Text => {}
        }
    }
}
