//! Whether a trace is recorded (OpenTelemetry trace SDK, "Sampling"; `OTEL_TRACES_SAMPLER`).

use mesh::TraceContext;
use rand::RngCore;

/// Decides by parent and trace id, so that both ends of a tunnel decide alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// Every trace.
    AlwaysOn,
    /// No trace.
    AlwaysOff,
    /// A share of all traces, whatever the parent says; 0.0 to 1.0.
    Ratio(f64),
    /// As the parent says; every trace without a parent. The default of the specification.
    ParentAlwaysOn,
    /// As the parent says; no trace without a parent.
    ParentAlwaysOff,
    /// As the parent says; a share of the traces without a parent.
    ParentRatio(f64),
}

/// A value of `OTEL_TRACES_SAMPLER` or `OTEL_TRACES_SAMPLER_ARG` that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// The name is not one of the specification's that we have.
    #[error(
        "OTEL_TRACES_SAMPLER={0:?} is not known; use always_on, always_off, traceidratio, parentbased_always_on, \
         parentbased_always_off or parentbased_traceidratio"
    )]
    Name(String),
    /// The argument is not a share.
    #[error("OTEL_TRACES_SAMPLER_ARG={0:?} is not a share; use a number from 0.0 to 1.0")]
    Ratio(String),
}

impl Sampler {
    /// Reads the values of `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    ///
    /// # Errors
    /// When the name is unknown or the share is not between 0 and 1.
    pub fn parse(name: &str, arg: Option<&str>) -> Result<Self, SamplerError> {
        let ratio = || match arg.map(str::trim).filter(|a| !a.is_empty()) {
            // The specification: a ratio that is not set is 1.0.
            None => Ok(1.0),
            Some(text) => match text.parse::<f64>() {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
                _ => Err(SamplerError::Ratio(text.to_owned())),
            },
        };
        match name.trim() {
            "always_on" => Ok(Self::AlwaysOn),
            "always_off" => Ok(Self::AlwaysOff),
            "traceidratio" => Ok(Self::Ratio(ratio()?)),
            "parentbased_always_on" => Ok(Self::ParentAlwaysOn),
            "parentbased_always_off" => Ok(Self::ParentAlwaysOff),
            "parentbased_traceidratio" => Ok(Self::ParentRatio(ratio()?)),
            other => Err(SamplerError::Name(other.to_owned())),
        }
    }

    /// Whether to record.
    pub fn samples(self, parent: Option<TraceContext>, trace_id: u128) -> bool {
        match (self, parent) {
            (Self::AlwaysOn, _) | (Self::ParentAlwaysOn, None) => true,
            (Self::AlwaysOff, _) | (Self::ParentAlwaysOff, None) => false,
            (Self::Ratio(share), _) | (Self::ParentRatio(share), None) => within(share, trace_id),
            (_, Some(parent)) => parent.sampled,
        }
    }
}

/// The context of a span of our own: joins the parent's trace, or begins one with a random id. Without a sampler nothing is
/// recorded, and the ids are random all the same, as Istio's are (telemetry.md 4).
pub(crate) fn begin(sampler: Option<Sampler>, parent: Option<TraceContext>) -> TraceContext {
    let mut random = rand::rng();
    let trace_id = match parent {
        Some(parent) => parent.trace_id,
        None => (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).max(1),
    };
    let sampled = sampler.is_some_and(|sampler| sampler.samples(parent, trace_id));
    TraceContext { trace_id, span_id: random.next_u64().max(1), sampled }
}

/// Whether the low 63 bits of the trace id fall into the share: the rule of the Rust SDK's ratio sampler, so that spans
/// from `tracing` and spans from records of one trace are kept or dropped together.
fn within(share: f64, trace_id: u128) -> bool {
    let bound = (share.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64;
    share >= 1.0 || (trace_id as u64) >> 1 < bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(sampled: bool) -> Option<TraceContext> {
        Some(TraceContext { trace_id: 1, span_id: 1, sampled })
    }

    #[test]
    fn a_parent_decides_only_for_parent_based_samplers() {
        let table = [
            (Sampler::AlwaysOn, [true, true, true]),
            (Sampler::AlwaysOff, [false, false, false]),
            (Sampler::Ratio(0.0), [false, false, false]),
            (Sampler::Ratio(1.0), [true, true, true]),
            (Sampler::ParentAlwaysOn, [true, false, true]),
            (Sampler::ParentAlwaysOff, [false, false, true]),
            (Sampler::ParentRatio(0.0), [false, false, true]),
            (Sampler::ParentRatio(1.0), [true, false, true]),
        ];
        for (sampler, wanted) in table {
            let got = [None, parent(false), parent(true)].map(|p| sampler.samples(p, 77));
            assert_eq!(got, wanted, "{sampler:?}: none, unsampled, sampled");
        }
    }

    #[test]
    fn a_span_joins_its_parents_trace_or_begins_one() {
        let joined = begin(Some(Sampler::ParentAlwaysOff), parent(true));
        assert!(joined.trace_id == 1 && joined.span_id > 1 && joined.sampled, "{joined:?}");
        let (one, other) = (begin(Some(Sampler::AlwaysOn), None), begin(None, None));
        assert!(one.trace_id != other.trace_id && one.span_id != other.span_id, "{one:?} {other:?}");
        assert_eq!((one.sampled, other.sampled), (true, false));
    }

    #[test]
    fn a_ratio_keeps_its_share_of_spread_out_ids() {
        let kept = (0..10_000_u128).filter(|i| within(0.25, i * (u128::from(u64::MAX) / 10_000))).count();
        assert!((2_490..=2_510).contains(&kept), "{kept}");
    }

    #[test]
    fn names_and_shares_are_checked() {
        assert_eq!(Sampler::parse("parentbased_traceidratio", Some("0.01")), Ok(Sampler::ParentRatio(0.01)));
        assert_eq!(Sampler::parse("traceidratio", None), Ok(Sampler::Ratio(1.0)));
        assert!(matches!(Sampler::parse("jaeger_remote", None), Err(SamplerError::Name(_))));
        for text in ["1.5", "-0.1", "NaN", "a"] {
            assert!(matches!(Sampler::parse("traceidratio", Some(text)), Err(SamplerError::Ratio(_))), "{text}");
        }
    }
}
