//! One request on its way through a rule.
//!
//! ```text
//! HttpRouter::route ─► Passage ─ next()… ─► pick() ─ next_of_target()… ─► attempt ─► answer()
//!                                  │  ▲        ▲                             │
//!                                  ▼  │        └───────── again ─────────────┘
//!                          what needs the world
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::ORIGIN;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use crate::answer::{Answer, Cause};
use crate::filter::redirect::Scheme;
use crate::filter::{ExternalAuth, ExternalProcessing, Mirror, Step};
use crate::request::RequestView;
use crate::route::Route;
use crate::target::Target;

/// One request on its way through a rule.
#[derive(Debug)]
pub struct Passage {
    route: Arc<Route>,
    target: Option<Arc<Target>>,
    /// Over the rule's filters.
    cursor: Cursor,
    /// Over the chosen backend's filters.
    target_cursor: Cursor,
    origin: Option<HeaderValue>,
    grpc: bool,
}

/// How far a list of filters has been followed.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    at: usize,
    /// The delay of the fault filter at hand is over.
    delayed: bool,
    /// Bytes of the path that the match names; changes when the path does.
    prefix: usize,
}

/// What filters need to know beside the request.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// By which scheme the caller speaks to the Service.
    pub scheme: Scheme,
    /// Service port that the caller used.
    pub port: u16,
    /// Who calls, as text; `None` in clear.
    pub identity: Option<&'a str>,
    /// The time.
    pub now: Instant,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// It ends here.
    Answer(Answer),
    /// Ask this service; refuse, or change the request and go on.
    Authorize(Arc<ExternalAuth>),
    /// Wait, and go on.
    Delay(Duration),
    /// Nothing is left.
    Done,
    /// Send a copy of the request as it is now, and go on at once.
    Mirror(Arc<Mirror>),
    /// Let this service change the request, and go on.
    Process(Arc<ExternalProcessing>),
}

impl Passage {
    pub(crate) fn new(route: Arc<Route>, prefix: Option<usize>, request: &RequestView<'_>) -> Self {
        let cursor = Cursor { prefix: prefix.unwrap_or_default(), ..Cursor::default() };
        let origin = request.headers.get(ORIGIN).cloned();
        Self { route, target: None, cursor, target_cursor: cursor, origin, grpc: request.is_grpc() }
    }

    /// The rule.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The backend that was picked.
    pub fn target(&self) -> Option<&Arc<Target>> {
        self.target.as_ref()
    }

    /// Applies the rule's filters to the request, in their order, until one needs the world. To be called again after
    /// each [`Next`] until [`Next::Done`] or an answer. `random` gives uniform numbers.
    pub fn next(&mut self, parts: &mut Parts, scene: &Scene<'_>, random: &mut dyn FnMut() -> u32) -> Next {
        self.cursor.next(&self.route.steps, parts, scene, random).unwrap_or_else(|cause| self.refuse(cause))
    }

    /// The backend of this request, chosen by weight. To be called before each attempt: a retry has the same backend (its
    /// weight is a share of requests, not of attempts), and begins with its filters anew.
    ///
    /// # Errors
    /// The answer, when there is none, or when the chosen one is not usable: its share fails and is not given to others
    /// (gateway-api.md 3.5).
    pub fn pick(&mut self) -> Result<Arc<Target>, Answer> {
        self.target_cursor = Cursor { prefix: self.cursor.prefix, ..Cursor::default() };
        if let Some(target) = &self.target {
            return Ok(target.clone());
        }
        let Some(target) = self.route.next_target().cloned() else { return Err(self.answer_of(Cause::NoBackend)) };
        if let Some(reason) = &target.invalid {
            return Err(self.answer_of(Cause::BackendInvalid(reason.clone())));
        }
        Ok(self.target.insert(target).clone())
    }

    /// As [`Passage::next`], with the filters of the picked backend. The request is the one that the rule's filters left: for
    /// a retry, a copy from before the filters of the backend.
    pub fn next_of_target(&mut self, parts: &mut Parts, scene: &Scene<'_>, random: &mut dyn FnMut() -> u32) -> Next {
        let Some(target) = &self.target else { return Next::Done };
        self.target_cursor.next(&target.steps, parts, scene, random).unwrap_or_else(|cause| self.refuse(cause))
    }

    /// Applies filters to the answer: the backend's, then the rule's. For answers of backends and for our own, except
    /// answers to preflight questions, which are whole already.
    pub fn answer(&self, headers: &mut HeaderMap) {
        let targets = self.target.iter().flat_map(|t| &t.steps);
        for step in targets.chain(&self.route.steps) {
            match step {
                Step::Cors(cors) => cors.answer(self.origin.as_ref(), headers),
                Step::ResponseHeaders(change) => change.apply(headers),
                Step::ExternalAuth(_)
                | Step::ExternalProcessing(_)
                | Step::Fault(_)
                | Step::Invalid(_)
                | Step::LocalRate(_)
                | Step::Mirror(_)
                | Step::Redirect(_)
                | Step::RequestHeaders(_)
                | Step::Rewrite(_) => {}
            }
        }
    }

    /// An answer of our own to this request, by this rule.
    pub fn answer_of(&self, cause: Cause) -> Answer {
        Answer { cause, grpc: self.grpc, route: Some(self.route.name.clone()) }
    }

    fn refuse(&self, cause: Cause) -> Next {
        Next::Answer(self.answer_of(cause))
    }
}

impl Cursor {
    fn next(
        &mut self,
        steps: &[Step],
        parts: &mut Parts,
        scene: &Scene<'_>,
        random: &mut dyn FnMut() -> u32,
    ) -> Result<Next, Cause> {
        while let Some(step) = steps.get(self.at) {
            if let Step::Fault(fault) = step
                && !self.delayed
            {
                self.delayed = true;
                if let Some(delay) = fault.delay(random()) {
                    return Ok(Next::Delay(delay));
                }
            }
            self.delayed = false;
            self.at += 1;
            match self.apply(step, parts, scene, random)? {
                Next::Done => {}
                needed => return Ok(needed),
            }
        }
        Ok(Next::Done)
    }

    /// `Done` when the next step can follow at once.
    fn apply(
        &mut self,
        step: &Step,
        parts: &mut Parts,
        scene: &Scene<'_>,
        random: &mut dyn FnMut() -> u32,
    ) -> Result<Next, Cause> {
        match step {
            Step::Cors(cors) => {
                if let Some(headers) = cors.preflight(&parts.method, &parts.headers) {
                    return Err(Cause::Preflight(headers));
                }
            }
            Step::ExternalAuth(auth) => return Ok(Next::Authorize(auth.clone())),
            Step::ExternalProcessing(processing) => return Ok(Next::Process(processing.clone())),
            Step::Fault(fault) => {
                if let Some(status) = fault.abort(random()) {
                    return Err(Cause::Aborted(status));
                }
            }
            Step::Invalid(reason) => return Err(Cause::FilterInvalid(reason.clone())),
            Step::LocalRate(rate) => rate.take(scene.now, scene.identity).map_err(Cause::RateLimited)?,
            Step::Mirror(mirror) if mirror.samples(random()) => return Ok(Next::Mirror(mirror.clone())),
            Step::Mirror(_) | Step::ResponseHeaders(_) => {}
            Step::Redirect(redirect) => {
                let view = RequestView::from(&*parts);
                let location = redirect.location(&view, scene.scheme, scene.port, self.prefix);
                let location = location.ok_or_else(|| Cause::FilterInvalid("the new address is not one".into()))?;
                return Err(Cause::Redirected { status: redirect.status, location });
            }
            Step::RequestHeaders(change) => change.apply_to_request(parts),
            Step::Rewrite(rewrite) => rewrite
                .apply(parts, &mut self.prefix)
                .map_err(|_| Cause::FilterInvalid("the new path is not one".into()))?,
        }
        Ok(Next::Done)
    }
}
