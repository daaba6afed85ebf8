//! Ports, traffic and reporting of a service, as the wire has them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::routing as wire;
use routing::model::Protocol;
use telemetry::Recording;

use crate::compile::duration;
use crate::endpoints::{Balance, Outliers};
use crate::here::Room;
use crate::originate::Originate;

/// How each port is spoken.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeMap<u16, Protocol>);

/// How endpoints are treated (the part of DestinationRule's trafficPolicy that maps cleanly).
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) balance: Balance,
    pub(crate) hash: HashBy,
    pub(crate) connect_timeout: Option<Duration>,
    /// Requests at one time, over all workers.
    pub(crate) requests: Option<Arc<Room>>,
    /// Retries at one time, over all workers.
    pub(crate) retries: Option<Arc<Room>>,
    pub(crate) outliers: Option<Outliers>,
    /// Speak HTTP/2 to the endpoints.
    pub(crate) http2: bool,
    /// TLS to the endpoints.
    tls: Tls,
}

/// TLS that can be made, or why it cannot be.
pub(crate) type Checked = Result<Arc<Originate>, Arc<str>>;

/// TLS to the endpoints of a service.
#[derive(Debug, Default)]
struct Tls {
    /// On ports that are not named.
    others: Option<Checked>,
    /// By port of the service; `None`: the port has none.
    ports: BTreeMap<u16, Option<Checked>>,
}

/// What requests are told apart by.
#[derive(Debug, Default)]
pub(crate) enum HashBy {
    #[default]
    Nothing,
    Header(String),
    Cookie(String),
    Source,
}

/// What is recorded of requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reporting {
    /// Share of requests without a decision of their own that are traced.
    pub(crate) sampling: Option<f64>,
    /// What else is not as usual.
    pub(crate) recording: Option<Arc<Recording>>,
}

impl Ports {
    pub(crate) fn new(ports: &[wire::Port]) -> Self {
        let known = |port: &wire::Port| Some((u16::try_from(port.number).ok()?, protocol(port.protocol)));
        Self(ports.iter().filter_map(known).collect())
    }

    pub(crate) fn protocol(&self, port: u16) -> Protocol {
        self.0.get(&port).copied().unwrap_or_default()
    }
}

/// What is not known is found out by what the client sends.
fn protocol(wire: i32) -> Protocol {
    match wire::Protocol::try_from(wire) {
        Ok(wire::Protocol::Http) => Protocol::Http,
        Ok(wire::Protocol::Http2) => Protocol::Http2,
        Ok(wire::Protocol::Grpc) => Protocol::Grpc,
        Ok(wire::Protocol::Tcp) => Protocol::Tcp,
        Ok(wire::Protocol::Tls) => Protocol::Tls,
        Ok(wire::Protocol::Detect) | Err(_) => Protocol::Detect,
    }
}

impl Traffic {
    /// How endpoints are treated when nobody says anything.
    pub(crate) fn usual() -> &'static Self {
        static USUAL: OnceLock<Traffic> = OnceLock::new();
        USUAL.get_or_init(Self::default)
    }

    pub(crate) fn new(traffic: Option<&wire::Traffic>) -> Self {
        let Some(traffic) = traffic else { return Self::default() };
        let hash = match traffic {
            t if !t.hash_header.is_empty() => HashBy::Header(t.hash_header.clone()),
            t if !t.hash_cookie.is_empty() => HashBy::Cookie(t.hash_cookie.clone()),
            t if t.hash_source => HashBy::Source,
            _ => HashBy::Nothing,
        };
        let room = |limit: u32| (limit > 0).then(|| Arc::new(Room::new(usize::try_from(limit).unwrap_or(usize::MAX))));
        // HTTP/1 carries one request on a connection: the bound of connections and of those that wait is one of requests.
        let connections = if traffic.max_connections == 0 || traffic.http2 {
            0
        } else {
            traffic.max_connections.saturating_add(traffic.max_pending)
        };
        let requests = [traffic.max_requests, connections].into_iter().filter(|n| *n > 0).min().unwrap_or(0);
        Self {
            balance: match wire::Balance::try_from(traffic.balance) {
                Ok(wire::Balance::RoundRobin) => Balance::RoundRobin,
                Ok(wire::Balance::Random) => Balance::Random,
                Ok(wire::Balance::ConsistentHash) => Balance::Hash,
                Ok(wire::Balance::LeastLoad) | Err(_) => Balance::LeastLoad,
            },
            hash,
            connect_timeout: duration(traffic.connect_timeout.as_ref()),
            requests: room(requests),
            retries: room(traffic.max_retries),
            outliers: traffic.outliers.as_ref().map(outliers),
            http2: traffic.http2,
            tls: Tls::new(traffic),
        }
    }

    /// TLS to the endpoints of a port of the service.
    pub(crate) fn tls(&self, port: u16) -> Option<&Checked> {
        match self.tls.ports.get(&port) {
            Some(own) => own.as_ref(),
            None => self.tls.others.as_ref(),
        }
    }
}

impl Tls {
    fn new(traffic: &wire::Traffic) -> Self {
        let checked = |tls: &wire::BackendTls| (!tls.off).then(|| Originate::new(tls).map(Arc::new));
        let port = |(port, tls): (&u32, &wire::BackendTls)| Some((u16::try_from(*port).ok()?, checked(tls)));
        Self {
            others: traffic.tls.as_ref().and_then(checked),
            ports: traffic.port_tls.iter().filter_map(port).collect(),
        }
    }
}

fn outliers(wire: &wire::Outliers) -> Outliers {
    Outliers {
        // Defaults of Istio's OutlierDetection.
        consecutive_5xx: wire.consecutive_5xx,
        consecutive_gateway_errors: wire.consecutive_gateway_errors,
        base_ejection: duration(wire.base_ejection.as_ref()).unwrap_or(Duration::from_secs(30)),
        max_ejection_percent: if wire.max_ejection_percent == 0 { 10 } else { wire.max_ejection_percent },
        min_health_percent: wire.min_health_percent,
    }
}

impl Reporting {
    pub(crate) fn new(telemetry: Option<&wire::Telemetry>) -> Self {
        let Some(telemetry) = telemetry else { return Self::default() };
        let sampling = telemetry.sampling.map(|share| f64::from(share.min(1_000_000)) / 1e6);
        let recording = crate::compile::recording(telemetry);
        Self { sampling, recording: (recording != Recording::default()).then(|| Arc::new(recording)) }
    }
}
