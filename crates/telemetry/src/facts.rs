//! What is known of one connection when it has ended; every sink reads this and nothing else.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh::{Direction, Identity, Outcome, PeerAddr, Service, TraceContext, Workload};

use crate::labels::{LabelsRef, ServiceRef, Side, SideRef};
use crate::phase::Timings;

/// What a waypoint calls itself in label `reporter` (telemetry.md 1).
pub(crate) const WAYPOINT: &str = "waypoint";

/// Everything about one connection.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Which end reports.
    pub direction: Direction,
    /// When the connection was accepted.
    pub started: SystemTime,
    /// From accept to close.
    pub duration: Duration,
    /// The application's end at the source, as accepted.
    pub source_address: PeerAddr,
    /// The next hop: the HBONE port where there is a tunnel, else the destination itself.
    pub destination_address: SocketAddr,
    /// The `:authority` of the CONNECT, where there is a tunnel.
    pub authority: Option<Authority>,
    /// Who the source is.
    pub source: Option<SourceEnd>,
    /// What the connection goes to (the waypoint, when the client's proxy goes there).
    pub destination: Option<Arc<Workload>>,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
    /// Identity of the source: from the TLS handshake, or of our own certificate.
    pub source_identity: Option<Identity>,
    /// Identity that the destination proved; discovery's where it is not known.
    pub destination_identity: Option<Identity>,
    /// Whether the connection was under mutual TLS.
    pub mutual_tls: bool,
    /// Whether the connection went to a waypoint.
    pub via_waypoint: bool,
    /// Whether a waypoint reports it.
    pub at_waypoint: bool,
    /// Bytes from source to destination.
    pub to_destination: u64,
    /// Bytes from destination to source.
    pub to_source: u64,
    /// Time from accept to the first byte from the destination.
    pub first_byte: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome,
    /// Trace id and the id of this connection's own span.
    pub trace: Option<TraceContext>,
    /// Span id of the parent, where somebody sent one.
    pub parent_span: Option<u64>,
    /// How long each step took.
    pub timings: Timings,
    /// State of the TCP connection at its end.
    pub health: Option<TcpHealth>,
    /// The rule that allowed it.
    pub allowed_by: Option<Arc<str>>,
    /// What most connections do not have.
    pub rare: Option<Box<Rare>>,
}

/// Fields that only failed, denied or audited connections have.
#[derive(Clone, Debug, Default)]
pub struct Rare {
    /// More than the outcome's own sentence.
    pub error: Option<String>,
    /// The policy decision that ended it.
    pub denial: Option<Denial>,
    /// What policies in dry run would have done.
    pub dry_run: Vec<DryRun>,
}

/// Why policy refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// `namespace/name` of the policy, where one rule decided.
    pub policy: Option<Arc<str>>,
    /// One sentence, with the rule and the nearest miss.
    pub explanation: String,
    /// The nearest miss alone, for flows.
    pub nearest_miss: Option<String>,
}

/// What a policy in dry run would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// `namespace/name` of the policy.
    pub policy: Arc<str>,
    /// Whether it would have refused the connection.
    pub denies: bool,
}

/// What the kernel says of a TCP connection (`TCP_INFO`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHealth {
    /// Smoothed round trip time.
    pub rtt: Duration,
    /// Variation of the round trip time.
    pub rtt_var: Duration,
    /// Segments sent again, over the whole life.
    pub retransmits: u32,
    /// Recent goodput in bytes a second.
    pub delivery_rate: u64,
    /// Segments that count as lost now.
    pub lost: u32,
}

/// What stands in `:authority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// An address.
    Address(SocketAddr),
    /// A host name with a port, as sent.
    Name(Arc<str>),
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(a) => a.fmt(f),
            Self::Name(n) => n.fmt(f),
        }
    }
}

/// How the source is known.
#[derive(Clone, Debug)]
pub enum SourceEnd {
    /// Discovery knows it.
    Workload(Arc<Workload>),
    /// Only its own words are known (baggage).
    Told(Box<Side>),
}

impl Facts {
    /// What is known at accept.
    pub fn new(direction: Direction, source: PeerAddr, destination: SocketAddr) -> Self {
        Self {
            direction,
            started: SystemTime::now(),
            duration: Duration::ZERO,
            source_address: source,
            destination_address: destination,
            authority: None,
            source: None,
            destination: None,
            service: None,
            source_identity: None,
            destination_identity: None,
            mutual_tls: false,
            via_waypoint: false,
            at_waypoint: false,
            to_destination: 0,
            to_source: 0,
            first_byte: None,
            outcome: Outcome::Abandoned,
            trace: None,
            parent_span: None,
            timings: Timings::default(),
            health: None,
            allowed_by: None,
            rare: None,
        }
    }

    /// The labels of the connection's series, with `-` as the flag.
    pub(crate) fn labels(&self) -> LabelsRef<'_> {
        let source = match &self.source {
            Some(SourceEnd::Workload(w)) => SideRef::from_workload(w),
            Some(SourceEnd::Told(side)) => SideRef::from(&**side),
            None => SideRef::default(),
        };
        let destination = self.destination.as_deref().map(SideRef::from_workload).unwrap_or_default();
        let proved = self.destination_identity.as_ref().map(Into::into);
        LabelsRef {
            reporter: self.reporter(),
            source: source.with_principal(self.source_identity.as_ref().map(Into::into)),
            destination: destination.with_principal(proved.or_else(|| self.destination.as_deref().map(Into::into))),
            service: self.service.as_deref().map(ServiceRef::from).unwrap_or_default(),
            mutual_tls: self.mutual_tls,
            flag: "-",
        }
    }

    /// Label `reporter` (telemetry.md 1).
    pub fn reporter(&self) -> &'static str {
        if self.at_waypoint { WAYPOINT } else { self.direction.reporter() }
    }

    /// Whether discovery (or baggage) knows anything of either end.
    pub fn has_context(&self) -> bool {
        self.source.is_some() || self.destination.is_some()
    }

    /// The source as labels see it: pod name, or what it is called otherwise.
    pub fn source_name(&self) -> Option<&str> {
        match self.source.as_ref()? {
            SourceEnd::Workload(w) => first([&w.name, &w.canonical_name]),
            SourceEnd::Told(side) => first([&side.workload, &side.app]),
        }
    }

    /// Namespace of the source.
    pub fn source_namespace(&self) -> Option<&str> {
        match self.source.as_ref()? {
            SourceEnd::Workload(w) => first([&w.namespace]),
            SourceEnd::Told(side) => first([&side.namespace]),
        }
    }

    /// Cluster of the source.
    pub fn source_cluster(&self) -> Option<&str> {
        match self.source.as_ref()? {
            SourceEnd::Workload(w) => first([&w.cluster_id]),
            SourceEnd::Told(side) => first([&side.cluster]),
        }
    }

    /// Pod name of the destination.
    pub fn destination_name(&self) -> Option<&str> {
        let w = self.destination.as_deref()?;
        first([&w.name, &w.canonical_name])
    }

    /// The destination's identity: proved, or else discovery's.
    pub fn destination_principal(&self) -> Option<Identity> {
        self.destination_identity.clone().or_else(|| self.destination.as_deref()?.identity().ok())
    }

    /// What went wrong, as one sentence; `None` when nothing did.
    pub fn error(&self) -> Option<String> {
        if self.outcome.is_ok() {
            return None;
        }
        let text = self.outcome.report().text;
        let rare = self.rare.as_deref();
        if let Some(denial) = rare.and_then(|r| r.denial.as_ref()) {
            return Some(denial.explanation.clone());
        }
        Some(match rare.and_then(|r| r.error.as_deref()) {
            Some(detail) => format!("{text}: {detail}"),
            None => text.to_owned(),
        })
    }
}

fn first<const N: usize>(texts: [&Arc<str>; N]) -> Option<&str> {
    texts.into_iter().map(|t| &**t).find(|t| !t.is_empty())
}
