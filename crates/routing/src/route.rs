//! A rule, checked: what is done with the requests that it matches.

use std::sync::Arc;
use std::time::Duration;

use crate::answer::{Answer, Cause};
use crate::filter::Step;
use crate::mistake::{Mistake, Workbench};
use crate::model::{Match, PathMatch, RouteName, Rule, SessionPersistence};
use crate::passage::Passage;
use crate::request::RequestView;
use crate::retry::RetryRule;
use crate::router::Decision;
use crate::split::Split;
use crate::target::{Target, steps};

/// A rule, checked.
#[derive(Debug)]
pub struct Route {
    /// Where it comes from.
    pub name: Arc<RouteName>,
    /// The same as one word, `kind/namespace/name/rule`, for records of requests.
    pub label: Arc<str>,
    /// Of a GRPCRoute.
    pub grpc: bool,
    /// In the order in which they apply.
    pub steps: Vec<Step>,
    /// Where requests go.
    pub targets: Vec<Arc<Target>>,
    /// Whole transaction with its retries.
    pub request_timeout: Option<Duration>,
    /// One attempt.
    pub backend_timeout: Option<Duration>,
    /// When a request is sent again.
    pub retry: Option<RetryRule>,
    /// How a client stays with an endpoint.
    pub session: Option<SessionPersistence>,
    /// It cannot be followed, and why: everything that it matches gets 500.
    pub invalid: Option<Arc<str>>,
    split: Split,
}

impl Route {
    /// Checks a rule. What is wrong is reported, and makes the route invalid; so do the notes that are on the bench already.
    pub(crate) fn new(bench: &mut Workbench, rule: &Rule, grpc: bool) -> (Self, Vec<Mistake>) {
        let prefix_named = rule.matches.iter().all(names_prefix);
        let steps = steps(bench, "", &rule.filters, prefix_named);
        let targets: Vec<Arc<Target>> = (rule.backends.iter().enumerate())
            .map(|(i, b)| Arc::new(Target::of_rule(bench, &format!("backendRefs[{i}]"), b, prefix_named)))
            .collect();
        let retry = rule.retry.as_ref().and_then(|r| RetryRule::new(bench, r));
        let problems = bench.take();
        let mut invalid = rule.invalid.as_ref().map(|i| i.reason.clone());
        if !problems.is_empty() {
            invalid = invalid.or_else(|| Some(problems.join("; ").into()));
        }
        let name = Arc::new(rule.route.clone());
        let mistakes = problems.into_iter().chain(bench.take_lesser());
        let mistakes = mistakes.map(|problem| Mistake { route: name.clone(), problem }).collect();
        let limit = |d: Option<Duration>| d.filter(|d| !d.is_zero());
        let route = Self {
            grpc,
            steps,
            split: Split::new(targets.iter().map(|t| t.weight)),
            targets,
            request_timeout: limit(rule.request_timeout),
            backend_timeout: limit(rule.backend_timeout),
            retry,
            session: rule.session.clone(),
            label: name.label().into(),
            invalid,
            name,
        };
        (route, mistakes)
    }

    /// What becomes of a request that it matches.
    pub(crate) fn decide(self: &Arc<Self>, prefix: Option<usize>, request: &RequestView<'_>) -> Decision {
        match &self.invalid {
            Some(reason) => {
                let cause = Cause::RuleInvalid(reason.clone());
                Decision::Answer(Answer::new(cause, request, Some(self.name.clone())))
            }
            None => Decision::Follow(Passage::new(self.clone(), prefix, request)),
        }
    }

    /// The next backend by weight; `None` when there is none with a weight. It may be one that is not usable.
    pub fn next_target(&self) -> Option<&Arc<Target>> {
        self.split.next().and_then(|i| self.targets.get(i))
    }
}

/// Whether a match names a path prefix; one without a path names `/`.
fn names_prefix(m: &Match) -> bool {
    m.grpc.is_none() && matches!(m.path, None | Some(PathMatch::Prefix(_)))
}
