//! pick → dispatch → answer: a request goes to an endpoint, again if its route says so, and the answer comes back.

mod attempt;

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use mesh::Workload;
use policy::request::RequestPermit;
use routing::model::Protocol;
use routing::{Next, Passage};
use telemetry::RequestRecord;
use telemetry::request::Flag;
use tokio::time::{Sleep, sleep_until, timeout_at};

use crate::answer::Own;
use crate::body::{AnswerBody, RequestBody, Tail, grpc_status};
use crate::bound::{Bound, Traffic};
use crate::connection::Connection;
use crate::endpoints::{Chosen, Endpoint, Set, Ticket};
use crate::exchange::{KeptBody, scene};
use crate::external::{self, Here, Left};
use crate::heads;
use crate::here::Place;
use crate::session;
use crate::tcp::on;
use crate::upgrade::{self, Upgrading};
use crate::upstream::Lease;
use attempt::{Attempt, Failed};

/// Where a request goes when no route says otherwise.
pub(crate) enum Goal {
    /// The service that was addressed.
    Service { key: Arc<str>, port: u16 },
    /// The workload that was addressed.
    Workload(Arc<Workload>),
}

/// A request that is ready to go.
pub(crate) struct Dispatch<'a> {
    pub(crate) connection: &'a Rc<Connection>,
    pub(crate) bound: Option<Arc<Bound>>,
    pub(crate) record: RequestRecord,
    pub(crate) passage: Option<Passage>,
    pub(crate) goal: Goal,
    pub(crate) body: KeptBody,
    pub(crate) upgrading: Option<Upgrading>,
    /// What external services want of the answer.
    pub(crate) left: Left,
}

/// Where one attempt goes.
pub(crate) struct Pick {
    endpoint: Rc<Endpoint>,
    /// Name of the service.
    host: Arc<str>,
    /// Port of the service, by which it may have TLS of its own; of the workload where that was addressed.
    port: u16,
    http2: bool,
    /// All endpoints of the service port, where it is one.
    set: Option<Rc<Set>>,
    /// Key of the service; empty for a workload.
    key: Arc<str>,
}

/// An answer, and what it came on.
pub(super) struct Got {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
    pub(super) ticket: Ticket,
    pub(super) place: Option<Place>,
}

impl Pick {
    /// An endpoint that was chosen outside of a route's own backends.
    pub(crate) fn new(endpoint: Rc<Endpoint>, host: Arc<str>, port: u16, http2: bool) -> Self {
        Self { endpoint, host, port, http2, set: None, key: "".into() }
    }
}

/// Sends a request that no route chose the endpoint of (a mirrored one, a question to an external service), once.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn once(
    connection: &Rc<Connection>,
    chosen: &Pick,
    traffic: &Traffic,
    parts: Parts,
    body: RequestBody,
) -> Result<(Response<Incoming>, Lease), String> {
    let attempt = Attempt { connection, chosen, traffic, trace: None, upgrading: None };
    let got = attempt.send(parts, body).await.map_err(|failed| failed.text.to_string())?;
    Ok((got.response, got.lease))
}

/// Sends the request and gives the answer, whatever it is. Takes the permit, so that nobody comes here without one.
pub(crate) async fn run(mut dispatch: Dispatch<'_>, parts: Parts, _permit: RequestPermit) -> Response<AnswerBody> {
    let started = dispatch.record.started();
    let limit = dispatch.passage.as_ref().and_then(|p| p.route().request_timeout).map(|limit| started + limit);
    let sent = {
        // Named once for both ways: each mention would have a place of its own in this future, and it is large.
        let sending = pin!(dispatch.send(parts));
        match limit {
            None => sending.await,
            Some(deadline) => match timeout_at(deadline.into(), sending).await {
                Ok(sent) => sent,
                Err(_) => Err(Own::upstream(Flag::TimedOut, "response_timeout")),
            },
        }
    };
    let seen = match sent {
        Ok((got, attempt_limit)) => dispatch.shown(got).await.map(|got| (got, attempt_limit)),
        Err(own) => Err(own),
    };
    match seen {
        Ok((got, attempt_limit)) => dispatch.answer(got, earlier(limit, attempt_limit)),
        Err(own) => {
            dispatch.record.attempted(0, Some("failed"));
            let mut response = own.send(dispatch.record);
            if let Some(passage) = &dispatch.passage {
                passage.answer(response.headers_mut());
            }
            response
        }
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl Dispatch<'_> {
    /// Attempts, until one has an answer that stands. Gives that answer, and when its body must be over.
    async fn send(&mut self, parts: Parts) -> Result<(Got, Option<Instant>), Box<Own>> {
        let mut tried = Chosen::default();
        let mut tries = 0;
        let mut parts = Some(parts);
        loop {
            tries += 1;
            let retry = self.passage.as_ref().and_then(|p| p.route().retry.clone());
            let again = retry.as_ref().is_some_and(|retry| tries <= retry.attempts);
            // The head is copied only when it may be needed again.
            let mut head = match (&parts, again) {
                (Some(parts), true) => parts.clone(),
                _ => match parts.take() {
                    Some(parts) => parts,
                    None => return Err(Own::upstream(Flag::RetriesExhausted, "retry_limit_exceeded")),
                },
            };
            let chosen = self.pick(&mut head, &tried).await?;
            tried.add(&chosen.endpoint);
            if let (Some(set), 1, true) = (&chosen.set, tries, again) {
                set.budget.borrow_mut().request(Instant::now());
            }
            let limit = self.passage.as_ref().and_then(|p| p.route().backend_timeout);
            let deadline = limit.map(|limit| Instant::now() + limit);
            let result = self.attempt(&chosen, head, deadline).await;
            let ending = match &result {
                Ok(got) => attempt::ending(&got.response),
                Err(failed) => failed.ending,
            };
            self.judge(&chosen, &result);
            let wanted = retry.filter(|retry| again && retry.again(tries, ending, self.body.is_whole()));
            let Some(retry) = wanted else { return self.stands(result, tries, deadline) };
            let within = chosen.set.as_ref().is_none_or(|set| set.budget.borrow_mut().take(Instant::now()));
            if !within {
                return self.stands(result, tries, deadline);
            }
            let Some(_place) = self.retry_place(&chosen.key) else { return self.stands(result, tries, deadline) };
            drop(result);
            tokio::time::sleep(retry.wait(tries, fastrand::u32(..))).await;
        }
    }

    /// The last word: an answer as it came, or why there is none.
    fn stands(
        &self,
        result: Result<Got, Failed>,
        tries: u32,
        deadline: Option<Instant>,
    ) -> Result<(Got, Option<Instant>), Box<Own>> {
        result.map(|got| (got, deadline)).map_err(|failed| {
            tracing::debug!(tries, reason = %failed.text, "no answer from an endpoint");
            failed.into_own()
        })
    }

    /// pick: the backend by weight, its filters, and one of its endpoints.
    async fn pick(&mut self, parts: &mut Parts, tried: &Chosen) -> Result<Pick, Box<Own>> {
        let target = match &mut self.passage {
            Some(passage) => Some(passage.pick().map_err(|answer| Own::of_route(&answer))?),
            None => None,
        };
        if target.is_some() {
            self.change_for_target(parts).await?;
        }
        let worker = &self.connection.worker;
        let (key, port) = match (&target, &self.goal) {
            (Some(target), _) => (target.service.clone(), target.port),
            (None, Goal::Service { key, port }) => (key.clone(), *port),
            (None, Goal::Workload(workload)) => {
                let endpoint = on(worker, |view, all| all.single(view, workload, self.connection.target.named));
                let http2 = self.http2(parts, None, Protocol::Detect, true);
                return Ok(Pick::new(endpoint, "".into(), self.connection.target.port(), http2));
            }
        };
        let set = on(worker, |view, all| all.of(view, &key, port));
        let set =
            set.ok_or_else(|| Own::no_endpoint().with_reason(format!("discovery does not know service {key}")))?;
        let traffic = self.traffic(&key);
        let session = self.passage.as_ref().and_then(|p| p.route().session.as_ref());
        let stay_with = session.and_then(|session| session::wanted(session, &parts.headers, &set));
        let wish = attempt::wish(traffic, parts, self.connection, stay_with.as_deref());
        let endpoint = set.pick(wish, tried).ok_or_else(|| {
            Own::no_endpoint().with_reason(format!("service {key} has no usable endpoint for port {port}"))
        })?;
        let own = target.is_none() || matches!(&self.goal, Goal::Service { key: own, .. } if *own == key);
        let declared = target.as_ref().map_or(Protocol::Detect, |target| target.protocol);
        let declared = match (declared, own, &self.bound) {
            (Protocol::Detect, true, Some(bound)) => bound.protocol(port),
            _ => declared,
        };
        let http2 = self.http2(parts, Some(traffic), declared, own);
        Ok(Pick { endpoint, host: set.service.hostname.clone(), port, http2, set: Some(set), key })
    }

    /// The filters of the chosen backend.
    async fn change_for_target(&mut self, parts: &mut Parts) -> Result<(), Box<Own>> {
        let Some(passage) = &mut self.passage else { return Ok(()) };
        let caller = self.connection.tunnel.caller_text.clone();
        loop {
            let scene = scene(self.connection, &caller);
            match passage.next_of_target(parts, &scene, &mut || fastrand::u32(..)) {
                Next::Done => return Ok(()),
                Next::Answer(answer) => return Err(Own::of_route(&answer)),
                Next::Delay(delay) => tokio::time::sleep(delay).await,
                Next::Mirror(copy) => {
                    let bound = self.bound.as_deref();
                    crate::mirror::send(self.connection, bound, &copy.target, parts, self.body.copy());
                }
                Next::Authorize(filter) => {
                    let here = Here { connection: self.connection, bound: self.bound.as_deref() };
                    Box::pin(external::check_of_filter(here, &filter, parts, &mut self.body, &mut self.left)).await?;
                }
                Next::Process(filter) => {
                    let here = Here { connection: self.connection, bound: self.bound.as_deref() };
                    let none = matches!(self.body, KeptBody::None);
                    Box::pin(external::process(here, &filter, parts, none, &mut self.left)).await?;
                }
            }
        }
    }

    /// Shows the answer to those external services that want to see it.
    async fn shown(&mut self, got: Got) -> Result<Got, Box<Own>> {
        if self.left.is_empty() {
            return Ok(got);
        }
        let Got { mut response, lease, ticket, place } = got;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            heads::strip_answer(response.headers_mut());
        }
        let here = Here { connection: self.connection, bound: self.bound.as_deref() };
        let response = Box::pin(external::answer(here, &mut self.left, response)).await?;
        Ok(Got { response, lease, ticket, place })
    }

    /// Whether HTTP/2 is spoken to the endpoint: as declared, as gRPC needs it, else as the client speaks. A client that
    /// speaks HTTP/2 by prior knowledge knows that the service does; of another service it does not know.
    fn http2(&self, parts: &Parts, traffic: Option<&Traffic>, declared: Protocol, own: bool) -> bool {
        let grpc = self.passage.as_ref().is_some_and(|p| p.route().grpc) || self.record.facts().grpc;
        let as_client = own && parts.version == http::Version::HTTP_2;
        if self.upgrading.is_some() {
            return false;
        }
        match declared {
            Protocol::Grpc | Protocol::Http2 => true,
            _ => grpc || as_client || traffic.is_some_and(|traffic| traffic.http2),
        }
    }

    fn traffic(&self, key: &str) -> &Traffic {
        self.bound.as_deref().map_or(Traffic::usual(), |bound| bound.traffic(key))
    }

    /// A place for a retry, where their number is bounded.
    fn retry_place(&self, key: &str) -> Option<Option<Place>> {
        match &self.traffic(key).retries {
            None => Some(None),
            Some(room) => room.take().map(Some),
        }
    }

    /// Notes how the endpoint did.
    fn judge(&self, chosen: &Pick, result: &Result<Got, Failed>) {
        let (Some(rules), Some(set)) = (&self.traffic(&chosen.key).outliers, &chosen.set) else { return };
        let status = match result {
            Ok(got) => got.response.status().as_u16(),
            Err(failed) => failed.status(),
        };
        chosen.endpoint.judge(status, rules, &set.list, Instant::now());
    }

    /// answer: the head is changed as filters say, and the body passes.
    fn answer(mut self, got: Got, deadline: Option<Instant>) -> Response<AnswerBody> {
        let Got { mut response, lease, ticket, place } = got;
        let status = response.status();
        self.record.answered(status.as_u16(), Flag::None, "via_upstream");
        if let Some(grpc) = grpc_status(response.headers()) {
            self.record.grpc_status(grpc);
        }
        if let Some(upgrading) = self.upgrading.take_if(|_| upgrade::is_accepted(status)) {
            return upgrade::join(upgrading, self.connection, response, self.record, self.passage, ticket);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it.
            self.record.attempted(0, Some("protocol"));
            return Own::upstream(Flag::UpstreamProtocol, "unexpected_switching_protocols").send(self.record);
        }
        heads::strip_answer(response.headers_mut());
        if let Some(passage) = &self.passage {
            if let Some(session) = &passage.route().session {
                session::remember(session, ticket.endpoint(), response.headers_mut());
            }
            passage.answer(response.headers_mut());
        }
        *response.version_mut() = http::Version::HTTP_11;
        let deadline = deadline.map(|at| -> Pin<Box<Sleep>> { Box::pin(sleep_until(at.into())) });
        let counters = self.record.counters();
        let tail = Tail { record: self.record, counters, lease: Some(lease), deadline, _ticket: ticket, _place: place };
        response.map(|body| AnswerBody::passing(body, tail))
    }

    /// One attempt, within its own time.
    async fn attempt(&mut self, chosen: &Pick, parts: Parts, deadline: Option<Instant>) -> Result<Got, Failed> {
        let (at, workload) = (chosen.endpoint.at, chosen.endpoint.workload.clone());
        let trace = self.record.attempt(at, Some(workload));
        let traffic = self.bound.clone();
        let traffic = traffic.as_deref().map_or(Traffic::usual(), |bound| bound.traffic(&chosen.key));
        let body = self.body.take();
        let attempt =
            Attempt { connection: self.connection, chosen, traffic, trace, upgrading: self.upgrading.as_ref() };
        let result = {
            let sending = pin!(attempt.send(parts, body));
            match deadline {
                None => sending.await,
                Some(at) => match timeout_at(at.into(), sending).await {
                    Ok(result) => result,
                    Err(_) => Err(Failed::timed_out()),
                },
            }
        };
        match &result {
            Ok(got) => self.record.attempted(got.response.status().as_u16(), None),
            Err(failed) => {
                self.record.attempted(0, Some(failed.details));
                self.record.transport_failure(&*failed.text);
            }
        }
        result
    }
}
