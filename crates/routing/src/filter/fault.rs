//! Faults on purpose.

use std::time::Duration;

use http::StatusCode;

use crate::filter::mirror::share;
use crate::mistake::Workbench;
use crate::model;

/// A fault, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    delay: Option<(u32, Duration)>,
    abort: Option<(u32, StatusCode)>,
}

const MILLION: u32 = 1_000_000;

impl Fault {
    pub(crate) fn new(bench: &mut Workbench, place: &str, fault: &model::Fault) -> Option<Self> {
        let status = u16::try_from(fault.abort_status).ok().and_then(|s| StatusCode::from_u16(s).ok());
        // An interim answer would leave the client waiting.
        let status = status.filter(|s| s.as_u16() >= 200);
        if fault.abort_share > 0 && status.is_none() {
            bench.note(&format!("{place}.abort"), format!("{} is not a status code of 200 to 999", fault.abort_status));
            return None;
        }
        Some(Self {
            delay: (fault.delay_share > 0 && !fault.delay.is_zero()).then_some((fault.delay_share, fault.delay)),
            abort: status.filter(|_| fault.abort_share > 0).map(|s| (fault.abort_share, s)),
        })
    }

    /// How long this request is delayed, by a random number.
    pub fn delay(&self, random: u32) -> Option<Duration> {
        self.delay.filter(|(parts, _)| share(random, MILLION) < *parts).map(|(_, d)| d)
    }

    /// With which status this request is refused, by a random number.
    pub fn abort(&self, random: u32) -> Option<StatusCode> {
        self.abort.filter(|(parts, _)| share(random, MILLION) < *parts).map(|(_, s)| s)
    }
}
