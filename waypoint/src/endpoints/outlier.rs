//! Endpoints that fail again and again get nothing for a while (DestinationRule's outlierDetection, as far as Istio's API
//! has it).

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::Endpoint;

/// When an endpoint is left out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outliers {
    /// So many answers of 500 to 599 in a row; 0 = never. Connection failures count as such.
    pub(crate) consecutive_5xx: u32,
    /// So many of 502, 503, 504 in a row; 0 = never. Connection failures count as such.
    pub(crate) consecutive_gateway_errors: u32,
    /// For how long, the first time; the n-th time n times as long.
    pub(crate) base_ejection: Duration,
    /// Share of a service's endpoints that may be left out.
    pub(crate) max_ejection_percent: u32,
    /// Below this share of endpoints that are not left out, nobody is.
    pub(crate) min_health_percent: u32,
}

/// What an endpoint failed in.
#[derive(Default)]
pub(super) struct Failures {
    in_a_row: Cell<u32>,
    gateway_in_a_row: Cell<u32>,
    ejections: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
}

impl Endpoint {
    /// Whether it gets nothing now.
    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.failures.ejected_until.get().is_some_and(|until| now < until)
    }

    /// Notes an answer, or with status 503 a failed connection. `others` are the endpoints that it is one of.
    pub(crate) fn judge(&self, status: u16, rules: &Outliers, others: &[std::rc::Rc<Self>], now: Instant) {
        let f = &self.failures;
        let count = |cell: &Cell<u32>, failed: bool| {
            cell.set(if failed { cell.get().saturating_add(1) } else { 0 });
            cell.get()
        };
        let failures = count(&f.in_a_row, (500..600).contains(&status));
        let gateway = count(&f.gateway_in_a_row, (502..=504).contains(&status));
        let reached = |limit: u32, count: u32| limit > 0 && count >= limit;
        let over = reached(rules.consecutive_5xx, failures) || reached(rules.consecutive_gateway_errors, gateway);
        if over && !self.is_ejected(now) && may_eject(rules, others, now) {
            let times = f.ejections.get().saturating_add(1);
            f.ejections.set(times);
            f.ejected_until.set(Some(now + rules.base_ejection * times));
            f.in_a_row.set(0);
            f.gateway_in_a_row.set(0);
            tracing::info!(endpoint = %self.at, workload = %self.workload.uid, times, "endpoint fails and gets nothing for a while");
        }
    }
}

/// Envoy's rule: one may always be left out, further ones as long as the share allows.
fn may_eject(rules: &Outliers, others: &[std::rc::Rc<Endpoint>], now: Instant) -> bool {
    let all = others.len();
    let out = others.iter().filter(|e| e.is_ejected(now)).count();
    let share = |part: usize| part * 100 / all.max(1);
    let most = usize::try_from(rules.max_ejection_percent).unwrap_or(usize::MAX);
    let least = usize::try_from(rules.min_health_percent).unwrap_or(usize::MAX);
    all > 1 && (out == 0 || share(out + 1) <= most) && share(all - out - 1) >= least.min(100)
}
