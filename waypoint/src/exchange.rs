//! The story of a request. Its phases, in their order, are what the functions here and in `dispatch` are called:
//!
//! ```text
//! accept ─▶ identify ─▶ authenticate ─▶ authorize ─▶ match ─▶ change ─▶ pick ─▶ dispatch ─▶ answer ─▶ record
//!   one form  caller,     token, if      policies     route    filters   backend  attempts,   filters    on drop
//!   of it     service     there is one   of service                      endpoint retries     of it
//! ```
//! What is done to every request to the service (bounds, faults, processors) is changed before the match, in the same way.
//! Whoever refuses gives an [`Own`] answer; everything behind is skipped but the record.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use policy::request::canonical::{Authority, Encoded};
use policy::request::{self, Claims, Http, RequestPermit};
use routing::{Decision, Next, Passage, RequestView, Routes, Scene, Scheme};
use telemetry::RequestRecord;

use crate::ambiguity::Heads;
use crate::answer::Own;
use crate::authorize;
use crate::body::{AnswerBody, RequestBody, Source};
use crate::bound::Bound;
use crate::connection::Connection;
use crate::dispatch::{self, Dispatch, Goal};
use crate::external::{self, Here, Left};
use crate::heads;
use crate::mirror;
use crate::target::Kind;
use crate::upgrade::{self, Upgrading};

/// Answers one request.
pub(crate) async fn exchange(
    connection: &Rc<Connection>,
    mut request: Request<Incoming>,
    heads: Option<&Arc<Heads>>,
) -> Response<AnswerBody> {
    let connect = upgrade::refuses(&mut request);
    let upgrading = upgrade::wanted(&mut request);
    let (parts, body) = request.into_parts();
    let ambiguous = heads.is_some_and(|heads| heads.is_ambiguous(&parts));
    let worker = &connection.worker;
    let peer = connection.tunnel.peer.0;
    let record = RequestRecord::new(&worker.shared.telemetry, &parts, peer, connection.target.named);
    let old = parts.version < http::Version::HTTP_2;
    // What follows a request that is refused for its framing is not to be taken for another one.
    let close = old && (worker.leaves() || ambiguous || connect);
    let exchange = Exchange { connection, bound: connection.bound(), record, parts, left: Left::default() };
    let mut response = if ambiguous {
        Own::bad(StatusCode::BAD_REQUEST, "both_transfer_encoding_and_content_length").send(exchange.record)
    } else if connect {
        Own::bad(StatusCode::METHOD_NOT_ALLOWED, "connect_is_not_passed_on").send(exchange.record)
    } else {
        exchange.run(body, upgrading).await
    };
    response.body_mut().tell(heads.cloned());
    if close {
        response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    }
    response
}

/// One request on its way.
struct Exchange<'a> {
    connection: &'a Rc<Connection>,
    /// The service that it is for, as it is bound to us now.
    bound: Option<Arc<Bound>>,
    record: RequestRecord,
    parts: Parts,
    /// What external services want of the answer.
    left: Left,
}

impl Exchange<'_> {
    async fn run(mut self, body: Incoming, upgrading: Option<Upgrading>) -> Response<AnswerBody> {
        let mut kept = KeptBody::new(body, &self.record);
        let permit = match self.prepare(&mut kept).await {
            Ok(permit) => permit,
            Err(own) => return own.send(self.record),
        };
        if let Err(own) = self.prelude(&mut kept).await {
            return own.send(self.record);
        }
        let passage = match self.find_route() {
            Ok(passage) => passage,
            Err(own) => return own.send(self.record),
        };
        kept.prepare(passage.as_ref(), self.connection.worker.shared.config.limits.replay_bytes);
        match self.change(passage, &mut kept).await {
            Ok(passage) => self.forward(passage, kept, upgrading, permit).await,
            Err(refused) => {
                let (own, passage) = *refused;
                let mut response = own.send(self.record);
                // Filters of answers hold for our own as well (routing, `Passage::answer`).
                if let Some(passage) = passage {
                    passage.answer(response.headers_mut());
                }
                response
            }
        }
    }

    /// accept, identify, authenticate, authorize.
    async fn prepare(&mut self, body: &mut KeptBody) -> Result<RequestPermit, Box<Own>> {
        self.identify();
        let bound = self.bound.clone();
        if bound.is_none() && matches!(&self.connection.target.kind, Kind::Service(_)) {
            return Err(Own::unbound());
        }
        let named = bound.as_ref().is_some_and(|bound| bound.names_paths());
        let encoded = if named { Encoded::Refused } else { Encoded::Kept };
        let fields = self.connection.worker.shared.config.limits.head_fields;
        let authority = heads::canonicalise(&mut self.parts, fields, encoded)?;
        heads::strip_hop_by_hop(&mut self.parts.headers);
        if let Some(id) = heads::add_of_mesh(&mut self.parts.headers, &self.connection.tunnel.certificates) {
            self.record.request_id(id);
        }
        let Some(bound) = bound else { return self.authorize(&Bound::default(), &authority, None, body).await };
        if let Some(share) = bound.reporting.sampling {
            self.record.sample(share);
        }
        if let Some(recording) = &bound.reporting.recording {
            self.record.recording(recording, &self.parts.headers);
        }
        let claims = self.authenticate(&bound, &authority)?;
        let permit = self.authorize(&bound, &authority, claims.as_deref(), body).await?;
        bound.limit(&self.connection.tunnel.caller_text)?;
        Ok(permit)
    }

    fn identify(&mut self) {
        let Connection { worker, tunnel, target, .. } = &**self.connection;
        self.record.source_identity(tunnel.caller.clone());
        if let Some(source) = tunnel.source(worker) {
            self.record.source(source);
        }
        if let Some(service) = target.key().and_then(|key| worker.directory().service(key)) {
            self.record.service(service);
        }
    }

    fn authenticate(&mut self, bound: &Bound, authority: &Authority<'_>) -> Result<Option<Arc<Claims>>, Box<Own>> {
        if bound.authentications.is_empty() {
            return Ok(None);
        }
        let mut tokens = self.connection.worker.tokens.borrow_mut();
        let Parts { headers, uri, .. } = &mut self.parts;
        let found = bound.authentications.authenticate(&mut tokens, headers, uri.query(), SystemTime::now());
        let found = found.map_err(|refused| {
            Own::unauthenticated(refused.challenge(&authority.host)).with_reason(refused.to_string())
        })?;
        if let Some(query) = found.query {
            *uri = heads::origin_form(uri.path(), Some(&query).filter(|q| !q.is_empty()).map(String::as_str))?;
        }
        Ok(found.claims)
    }

    async fn authorize(
        &mut self,
        bound: &Bound,
        authority: &Authority<'_>,
        claims: Option<&Claims>,
        body: &mut KeptBody,
    ) -> Result<RequestPermit, Box<Own>> {
        let here = Here { connection: self.connection, bound: Some(bound) };
        let mut pending = bound.policies.checks(&judged(self.connection, &self.parts, authority, claims));
        while let Some(due) = pending.next() {
            let asked = bound.externals.get(due.index).and_then(Option::as_ref);
            let checked = match asked {
                Some(settings) => {
                    // Boxed here and below: rare, and large.
                    Box::pin(external::check(here, settings, &mut self.parts, body, &mut self.left)).await
                }
                None => Err(Own::denied(Some(&due.policy)).with_reason("the policy names no external service")),
            };
            if let Err(own) = checked {
                let denial = request::Denial::external(due.policy.clone(), own.reason().to_owned());
                authorize::tell(&denial, &mut self.record);
                return Err(own);
            }
            pending = pending.passed();
        }
        // As the checks left it: what they say in headers counts from here on.
        let request = judged(self.connection, &self.parts, authority, claims);
        let judged = authorize::judge(&bound.policies, &request, pending, &mut self.record);
        judged.map_err(|denial| Own::denied(denial.policy_name()))
    }

    /// What is done to every request to the service, before a route is chosen: that may look at what is written here.
    async fn prelude(&mut self, body: &mut KeptBody) -> Result<(), Box<Own>> {
        match self.bound.as_ref().and_then(|bound| bound.router.common(&RequestView::from(&self.parts))) {
            None => Ok(()),
            Some(Decision::Answer(answer)) => Err(Own::of_route(&answer)),
            Some(Decision::Follow(passage)) => {
                Box::pin(self.change(Some(passage), body)).await.map(drop).map_err(|r| r.0)
            }
        }
    }

    /// match: the route of the request; `None` when the service has none, and requests go to its own endpoints.
    fn find_route(&mut self) -> Result<Option<Passage>, Box<Own>> {
        let (Some(bound), Kind::Service(_)) = (&self.bound, &self.connection.target.kind) else { return Ok(None) };
        let (port, namespace) = (self.connection.target.port(), self.connection.tunnel.caller.namespace());
        let router = match bound.router.routes(port, Some(namespace)) {
            Some(Routes::Http(router)) => router,
            Some(Routes::Invalid(reason)) => {
                return Err(Own::unsupported("routes_cannot_be_followed").with_reason(&**reason));
            }
            // Routes of connections: this one was taken up before they came. It goes on as it began.
            Some(Routes::Tcp(_) | Routes::Tls(_)) | None => return Ok(None),
        };
        match router.route(&RequestView::from(&self.parts)) {
            Decision::Follow(passage) => {
                self.record.route(passage.route().label.clone(), None);
                Ok(Some(passage))
            }
            Decision::Answer(answer) => {
                if let Some(route) = &answer.route {
                    self.record.route(route.label().into(), None);
                }
                Err(Own::of_route(&answer))
            }
        }
    }

    /// change: the filters of the rule, until none is left.
    async fn change(&mut self, passage: Option<Passage>, body: &mut KeptBody) -> Result<Option<Passage>, Box<Refused>> {
        let Some(mut passage) = passage else { return Ok(None) };
        let caller = self.connection.tunnel.caller_text.clone();
        loop {
            let scene = scene(self.connection, &caller);
            match passage.next(&mut self.parts, &scene, &mut || fastrand::u32(..)) {
                Next::Done => return Ok(Some(passage)),
                Next::Answer(answer) => {
                    let whole = matches!(answer.cause, routing::Cause::Preflight(_));
                    return Err(Box::new((Own::of_route(&answer), (!whole).then_some(passage))));
                }
                Next::Delay(delay) => tokio::time::sleep(delay).await,
                Next::Mirror(copy) => {
                    mirror::send(self.connection, self.bound.as_deref(), &copy.target, &self.parts, body.copy())
                }
                Next::Authorize(filter) => {
                    let here = Here { connection: self.connection, bound: self.bound.as_deref() };
                    let asked = external::check_of_filter(here, &filter, &mut self.parts, body, &mut self.left);
                    if let Err(own) = Box::pin(asked).await {
                        return Err(Box::new((own, Some(passage))));
                    }
                }
                Next::Process(filter) => {
                    let here = Here { connection: self.connection, bound: self.bound.as_deref() };
                    let none = matches!(body, KeptBody::None);
                    let asked = external::process(here, &filter, &mut self.parts, none, &mut self.left);
                    if let Err(own) = Box::pin(asked).await {
                        return Err(Box::new((own, Some(passage))));
                    }
                }
            }
        }
    }

    /// pick, dispatch, answer.
    async fn forward(
        self,
        passage: Option<Passage>,
        body: KeptBody,
        upgrading: Option<Upgrading>,
        permit: RequestPermit,
    ) -> Response<AnswerBody> {
        let Self { connection, bound, record, parts, left } = self;
        let goal = match &connection.target.kind {
            Kind::Service(key) => Goal::Service { key: key.clone(), port: connection.target.port() },
            Kind::Workload { workload, .. } => Goal::Workload(workload.clone()),
        };
        let dispatch = Dispatch { connection, bound, record, passage, goal, body, upgrading, left };
        dispatch::run(dispatch, parts, permit).await
    }
}

/// An own answer, and the passage whose filters still have to see it.
type Refused = (Box<Own>, Option<Passage>);

/// The request as policies see it.
fn judged<'a>(
    connection: &'a Connection,
    parts: &'a Parts,
    authority: &'a Authority<'_>,
    claims: Option<&'a Claims>,
) -> request::Request<'a> {
    let Connection { tunnel, target, .. } = connection;
    request::Request {
        source: Some(&tunnel.caller),
        source_ip: tunnel.peer.ip(),
        remote_ip: tunnel.peer.ip(),
        destination_ip: target.named.ip(),
        destination_port: target.port(),
        server_name: None,
        http: Some(Http {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query(),
            authority,
            headers: &parts.headers,
            claims,
        }),
    }
}

/// What filters need to know beside the request.
pub(crate) fn scene<'a>(connection: &Connection, caller: &'a str) -> Scene<'a> {
    // Callers speak HTTP to the service; that a tunnel carries it is the mesh's matter.
    Scene { scheme: Scheme::Http, port: connection.target.port(), identity: Some(caller), now: Instant::now() }
}

/// The request's body, in the form that its way needs.
pub(crate) enum KeptBody {
    None,
    /// Sent once.
    Once(Option<RequestBody>),
    /// May be sent again, or elsewhere as well.
    Again(Rc<Source>),
}

impl KeptBody {
    fn new(body: Incoming, record: &RequestRecord) -> Self {
        if body.is_end_stream() {
            return Self::None;
        }
        Self::Once(Some(RequestBody::Passing(body, record.counters())))
    }

    /// For what the route will do with it.
    fn prepare(&mut self, passage: Option<&Passage>, replay: usize) {
        let route = passage.map(|passage| passage.route());
        let again = route.is_some_and(|route| route.retry.is_some());
        let elsewhere = route.is_some_and(|route| has_mirror(route));
        if again || elsewhere {
            self.keep(if again { replay } else { 0 });
        }
    }

    /// Keeps at least so much of it.
    fn keep(&mut self, bytes: usize) {
        match self {
            Self::Once(once) => match once.take() {
                Some(RequestBody::Passing(body, counters)) => *self = Self::Again(Source::new(body, counters, bytes)),
                other => *once = other,
            },
            Self::Again(source) => source.keep_at_least(bytes),
            Self::None => {}
        }
    }

    /// The whole of it, for a check; it can still be sent afterwards.
    ///
    /// # Errors
    /// When it is longer than `limit`, or breaks off.
    pub(crate) async fn shown(&mut self, limit: usize) -> Result<Bytes, Box<Own>> {
        self.keep(limit);
        match self {
            Self::Again(source) => external::gather(RequestBody::Replayed(source.replay()), limit).await,
            Self::None | Self::Once(_) => Ok(Bytes::new()),
        }
    }

    /// For one attempt.
    pub(crate) fn take(&mut self) -> RequestBody {
        match self {
            Self::None => RequestBody::Empty,
            Self::Once(body) => body.take().unwrap_or(RequestBody::Empty),
            Self::Again(source) => RequestBody::Replayed(source.replay()),
        }
    }

    /// Whether it can be sent from its beginning (again).
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::None => true,
            Self::Once(body) => body.is_some(),
            Self::Again(source) => source.is_whole(),
        }
    }

    /// For a mirror.
    pub(crate) fn copy(&self) -> RequestBody {
        match self {
            Self::Again(source) => RequestBody::Copied(source.copy()),
            Self::None | Self::Once(_) => RequestBody::Empty,
        }
    }
}

fn has_mirror(route: &routing::Route) -> bool {
    let of_targets = route.targets.iter().flat_map(|target| &target.steps);
    route.steps.iter().chain(of_targets).any(|step| matches!(step, routing::Step::Mirror(_)))
}
