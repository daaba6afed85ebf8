//! Filters, checked: what they do to requests and answers (gateway-api.md 3.3).

pub mod cors;
pub mod fault;
pub mod headers;
pub mod mirror;
pub mod path;
pub mod rate;
pub mod redirect;
pub mod rewrite;

use std::sync::Arc;

use crate::mistake::Workbench;
use crate::model;
use crate::target::Target;

pub use cors::Cors;
pub use fault::Fault;
pub use headers::HeaderChange;
pub use mirror::Mirror;
pub use path::PathChange;
pub use rate::LocalRate;
pub use redirect::Redirect;
pub use rewrite::Rewrite;

/// One filter, checked.
#[derive(Clone, Debug)]
pub enum Step {
    /// Cross-origin rules of browsers.
    Cors(Arc<Cors>),
    /// A service of the user's is asked about each request.
    ExternalAuth(Arc<ExternalAuth>),
    /// A service of the user's may change requests and answers.
    ExternalProcessing(Arc<ExternalProcessing>),
    /// Delays and refuses on purpose.
    Fault(Fault),
    /// Cannot be applied and must not be skipped, and why.
    Invalid(Arc<str>),
    /// A bound of requests.
    LocalRate(Arc<LocalRate>),
    /// A copy of the request goes elsewhere, too.
    Mirror(Arc<Mirror>),
    /// The request is answered with another address.
    Redirect(Arc<Redirect>),
    /// Headers of the request.
    RequestHeaders(Arc<HeaderChange>),
    /// Headers of the answer.
    ResponseHeaders(Arc<HeaderChange>),
    /// Host and path that the backend sees.
    Rewrite(Arc<Rewrite>),
}

/// Settings of an external check, and its backend.
#[derive(Debug)]
pub struct ExternalAuth {
    /// Who is asked.
    pub target: Target,
    /// The rest.
    pub settings: model::ExternalAuth,
}

/// Settings of an external processor, and its backend.
#[derive(Debug)]
pub struct ExternalProcessing {
    /// Who is asked.
    pub target: Target,
    /// The rest.
    pub settings: model::ExternalProcessing,
}

impl Step {
    /// Checks a filter. `None` when it has nothing to do: a mirror without a usable backend is left out (gateway-api.md
    /// 3.3, "Mirror"), everything else that is not usable becomes [`Step::Invalid`] with a note.
    pub(crate) fn new(bench: &mut Workbench, place: &str, filter: &model::Filter) -> Option<Self> {
        let invalid = || Self::Invalid(format!("{place} is not valid").into());
        let step = match filter {
            model::Filter::Cors(cors) => Cors::new(bench, place, cors).map(|c| Self::Cors(Arc::new(c))),
            model::Filter::ExternalAuth(settings) => {
                let target = Target::new(bench, &format!("{place}.backendRef"), &settings.backend);
                Some(Self::ExternalAuth(Arc::new(ExternalAuth { target, settings: settings.clone() })))
            }
            model::Filter::ExternalProcessing(settings) => {
                let target = Target::new(bench, &format!("{place}.backendRef"), &settings.backend);
                Some(Self::ExternalProcessing(Arc::new(ExternalProcessing { target, settings: settings.clone() })))
            }
            model::Filter::Fault(fault) => Fault::new(bench, place, fault).map(Self::Fault),
            // Control has told its owner already.
            model::Filter::Invalid(invalid) => Some(Self::Invalid(invalid.reason.clone())),
            model::Filter::LocalRate(rate) => bench.rate(place, rate).map(Self::LocalRate),
            model::Filter::Mirror(mirror) if mirror.backend.invalid.is_some() => return None,
            model::Filter::Mirror(mirror) => Some(Self::Mirror(Arc::new(Mirror::new(bench, place, mirror)))),
            model::Filter::Redirect(redirect) => {
                Redirect::new(bench, place, redirect).map(|r| Self::Redirect(Arc::new(r)))
            }
            model::Filter::RequestHeaders(change) => {
                HeaderChange::of_requests(bench, place, change).map(|c| Self::RequestHeaders(Arc::new(c)))
            }
            model::Filter::ResponseHeaders(change) => {
                HeaderChange::of_answers(bench, place, change).map(|c| Self::ResponseHeaders(Arc::new(c)))
            }
            model::Filter::Rewrite(rewrite) => Rewrite::new(bench, place, rewrite).map(|r| Self::Rewrite(Arc::new(r))),
        };
        Some(step.unwrap_or_else(invalid))
    }

    /// Whether it needs to know which prefix matched.
    pub(crate) fn replaces_prefix(&self) -> bool {
        let change = match self {
            Self::Redirect(redirect) => redirect.path(),
            Self::Rewrite(rewrite) => rewrite.path(),
            _ => None,
        };
        matches!(change, Some(PathChange::Prefix(_)))
    }
}
