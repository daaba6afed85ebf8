//! The record while its request lives.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use mesh::{Identity, Outcome, Service, TraceContext, Workload};
use rand::RngCore;

use super::{Attempt, Flag, Recording, RequestFacts};
use crate::counters::{Counters, Meter};
use crate::facts::{Denial, DryRun};
use crate::handle::{Telemetry, rbac};
use crate::sampler;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// W3C Trace Context, 3.2.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The record of one request: made when its head is read, filled step by step, written exactly once when it is dropped,
/// whatever ends the request. Who ends it in order calls [`RequestRecord::answered`] before; otherwise the client is taken
/// to have gone.
#[derive(Debug)]
pub struct RequestRecord {
    telemetry: Telemetry,
    start: Instant,
    counters: Arc<Counters>,
    attempt: Option<Instant>,
    pub(super) facts: Kept,
}

/// The facts, where the sinks can take them without a copy when they are complete. Until then nobody else has them.
#[derive(Debug)]
pub(super) struct Kept(Arc<RequestFacts>);

impl Deref for Kept {
    type Target = RequestFacts;

    fn deref(&self) -> &RequestFacts {
        &self.0
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut RequestFacts {
        Arc::make_mut(&mut self.0)
    }
}

impl RequestRecord {
    /// A record for the request with this head, as it came. `source` is the client's address, `local` the one that it
    /// connected to.
    pub fn new(telemetry: &Telemetry, head: &Parts, source: SocketAddr, local: SocketAddr) -> Self {
        let header = |name: &HeaderName| head.headers.get(name).cloned();
        let authority = match head.uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => header(&header::HOST),
        };
        let grpc = header(&header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        let facts = RequestFacts {
            started: SystemTime::now(),
            duration: Duration::ZERO,
            version: head.version,
            grpc,
            method: head.method.clone(),
            uri: head.uri.clone(),
            authority,
            user_agent: header(&header::USER_AGENT),
            request_id: header(&REQUEST_ID),
            forwarded_for: header(&FORWARDED_FOR),
            source: None,
            source_identity: None,
            source_address: source,
            local_address: local,
            service: None,
            destination: None,
            upstream: None,
            mutual_tls: false,
            status: 0,
            grpc_status: None,
            flag: Flag::ClientGone,
            details: Cow::Borrowed("downstream_remote_disconnect"),
            transport_failure: None,
            route: None,
            route_path: None,
            request_bytes: 0,
            response_bytes: 0,
            upstream_time: None,
            attempts: Vec::new(),
            tries: 0,
            trace: None,
            parent_span: None,
            allowed_by: None,
            denial: None,
            dry_run: Vec::new(),
            recording: None,
            tags: Vec::new(),
        };
        let facts = Kept(Arc::new(facts));
        let counters = Arc::new(Counters::new());
        let mut record = Self { telemetry: telemetry.clone(), start: Instant::now(), counters, attempt: None, facts };
        record.join(head);
        record
    }

    /// Takes part in the trace of the client, or begins one; without an exporter the client's headers stay as they are.
    fn join(&mut self, head: &Parts) {
        let Some(tracing) = self.telemetry.tracing() else { return };
        let said = head.headers.get(&TRACEPARENT).and_then(|v| v.to_str().ok());
        let parent = said.and_then(|text| text.parse::<TraceContext>().ok());
        self.facts.trace = Some(sampler::begin(Some(tracing.sampler()), parent));
        self.facts.parent_span = parent.map(|p| p.span_id);
    }

    /// Decides anew whether the trace is recorded: a setting of the service, or a header. A client's own decision to
    /// record stays.
    pub fn sample(&mut self, share: f64) {
        let facts = &mut *self.facts;
        if let Some(trace) = &mut facts.trace
            && facts.parent_span.is_none()
        {
            trace.sampled = crate::Sampler::Ratio(share).samples(None, trace.trace_id);
        }
    }

    /// When the request's head was read.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// What is known so far.
    pub fn facts(&self) -> &RequestFacts {
        &self.facts
    }

    /// Counters for the two bodies: the request's bytes go to the destination, the answer's to the source.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// The client, as discovery knows it.
    pub fn source(&mut self, workload: Arc<Workload>) {
        self.facts.source = Some(workload);
    }

    /// The client's identity, proved by mutual TLS.
    pub fn source_identity(&mut self, identity: Identity) {
        self.facts.source_identity = Some(identity);
        self.facts.mutual_tls = true;
    }

    /// The service that was asked for.
    pub fn service(&mut self, service: Arc<Service>) {
        self.facts.service = Some(service);
    }

    /// The rule that the request matched (`kind/namespace/name/rule`), and the path of its match.
    pub fn route(&mut self, rule: Arc<str>, path: Option<Arc<str>>) {
        self.facts.route = Some(rule);
        self.facts.route_path = path;
    }

    /// The id that was given to a request without one.
    pub fn request_id(&mut self, id: HeaderValue) {
        self.facts.request_id = Some(id);
    }

    /// Begins an attempt at a workload. Returns the trace context to send along, none when the client's own headers are to
    /// be left alone.
    pub fn attempt(&mut self, upstream: SocketAddr, workload: Option<Arc<Workload>>) -> Option<TraceContext> {
        self.attempt = Some(Instant::now());
        self.facts.upstream = Some(upstream);
        self.facts.destination = workload;
        self.facts.tries += 1;
        let trace = self.facts.trace?;
        let span = rand::rng().next_u64().max(1);
        if trace.sampled {
            self.facts.attempts.push(Attempt {
                begin: self.start.elapsed(),
                length: Duration::ZERO,
                upstream,
                span,
                status: 0,
                error: None,
            });
        }
        Some(TraceContext { span_id: span, ..trace })
    }

    /// Ends the attempt: with the status of its answer (0 = none), and a word for what went wrong.
    pub fn attempted(&mut self, status: u16, error: Option<&'static str>) {
        let Some(began) = self.attempt.take() else { return };
        self.facts.upstream_time = (status != 0).then(|| began.elapsed());
        if let Some(attempt) = self.facts.attempts.last_mut() {
            (attempt.length, attempt.status, attempt.error) = (began.elapsed(), status, error);
        }
    }

    /// The status that the client gets. Bodies may still be under way: the record is written when it is dropped.
    pub fn answered(&mut self, status: u16, flag: Flag, details: impl Into<Cow<'static, str>>) {
        self.facts.status = status;
        self.facts.flag = flag;
        self.facts.details = details.into();
    }

    /// The answer broke after its head was sent, or the client went away meanwhile.
    pub fn broke(&mut self, flag: Flag, details: &'static str) {
        self.facts.flag = flag;
        self.facts.details = Cow::Borrowed(details);
    }

    /// Why no answer came from the workload.
    pub fn transport_failure(&mut self, text: impl Into<String>) {
        self.facts.transport_failure = Some(text.into());
    }

    /// `grpc-status` of the answer, from its head or its trailers.
    pub fn grpc_status(&mut self, status: u16) {
        self.facts.grpc_status = Some(status);
    }

    /// What is recorded of the request beside or in place of the usual. `headers` are those that tags may name; whether the
    /// trace is recorded has to be decided before.
    pub fn recording(&mut self, recording: &Arc<Recording>, headers: &HeaderMap) {
        self.facts.recording = Some(recording.clone());
        if self.facts.is_traced() {
            self.facts.tags = recording.attributes(headers);
        }
    }

    /// The rule by which policy allowed it.
    pub fn allowed(&mut self, rule: Arc<str>) {
        self.facts.allowed_by = Some(rule);
    }

    /// Policy refused it: says why, to the access line, the span and scope `rbac`.
    pub fn denied(&mut self, denial: Denial) {
        let policy = denial.policy.as_deref().unwrap_or("none");
        let (source, why) = (self.facts.source_address, &*denial.explanation);
        let (method, path) = (self.facts.method.as_str(), self.facts.uri.path());
        rbac!(self.telemetry, policy, src.addr = %source, method, path, why, "denied");
        self.facts.denial = Some(Box::new(denial));
    }

    /// What a policy in dry run would have done.
    pub fn dry_run(&mut self, policy: impl Into<Arc<str>>, denies: bool) {
        self.facts.dry_run.push(DryRun { policy: policy.into(), denies });
    }

    /// The outcome of a plain connection in the words of a request's flag: for tunnels by upgrade.
    pub fn upgraded(&mut self, outcome: Outcome) {
        if !outcome.is_ok() {
            self.broke(Flag::UpstreamReset, outcome.report().name);
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        // An attempt that nobody ended was cut short with the request.
        self.attempted(0, Some("cancelled"));
        self.facts.duration = self.start.elapsed();
        self.facts.request_bytes = self.counters.to_destination();
        self.facts.response_bytes = self.counters.to_source();
        self.telemetry.write_request(&self.facts.0);
    }
}
