//! Changing the root while the mesh runs: which step may follow which, and when. Pure; `kubernetes::rotate` does it.
//!
//! ```text
//!             prepare                        activate                        retire
//!  Steady ---------------> Prepared{until} -----------> Activated{until} -----------> Steady
//!  one root signs,         two roots trusted,           two roots trusted,            the new root alone
//!  one is trusted          the old one signs            the new one signs
//! ```
//! A proxy trusts the roots that came with its own certificate (ca.md 5). So before the new root signs, everyone must have
//! a certificate that brought both: that is sure when every certificate from before has ended. And before the old root
//! goes, every certificate that it signed must have ended. Both ends are known, since no certificate is signed whose end
//! was not noted before (`Signers::until`); the note is a conditional write, so nobody can sign past it by an old copy.

use std::fmt;
use std::time::{Duration, SystemTime};

/// The shortest wait of a stage, whatever was issued: what is published must arrive. The kubelet refreshes a mounted
/// ConfigMap within its sync period and the life of its cache (a minute each by default); the rest is room.
pub const PROPAGATION: Duration = Duration::from_secs(5 * 60);

/// Where a change of the root stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// One root signs and is trusted.
    Steady,
    /// Both are trusted, the old one signs.
    Prepared {
        /// Since when.
        since: SystemTime,
        /// When every certificate that brought only the old root has ended.
        until: SystemTime,
    },
    /// Both are trusted, the new one signs.
    Activated {
        /// Since when.
        since: SystemTime,
        /// When every certificate that the old root signed has ended.
        until: SystemTime,
    },
}

/// What an operator may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a new root and have it trusted.
    Prepare,
    /// Have the new root sign.
    Activate,
    /// Trust the new root alone.
    Retire,
}

/// What a decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The time.
    pub now: SystemTime,
    /// The last end that was noted, of all certificates ever issued; none when none was.
    pub horizon: Option<SystemTime>,
    /// The operator says that every proxy has got a new certificate in this stage, which ends the wait for the ends of
    /// the former ones.
    pub renewed: bool,
}

/// A step was refused. The texts say why and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The step does not follow the stage.
    #[error("{step} does not follow the stage {stage}; {remedy}")]
    Order {
        /// The step.
        step: Step,
        /// The stage, as its name.
        stage: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// It is too early.
    #[error("{step} is not safe yet: {why}; wait {}", Span(*.wait))]
    Early {
        /// The step.
        step: Step,
        /// How long to wait.
        wait: Duration,
        /// What would break.
        why: &'static str,
    },
    /// The stage began later than now, by more than the whole seconds in which it is noted.
    #[error("the stage began {} in the future; set this machine's clock right", Span(*.0))]
    Clock(Duration),
}

impl Stage {
    /// The stage's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Prepared { .. } => "prepared",
            Self::Activated { .. } => "activated",
        }
    }

    /// The stage that `step` leads to.
    ///
    /// # Errors
    /// When the step does not follow, or not yet.
    pub fn next(&self, step: Step, facts: Facts) -> Result<Self, Refused> {
        // A wait for all that was ever issued also covers all that was issued in this stage only.
        let until = facts.horizon.map_or(facts.now, |end| end.max(facts.now)).max(facts.now + PROPAGATION);
        match (*self, step) {
            (Self::Steady, Step::Prepare) => Ok(Self::Prepared { since: facts.now, until }),
            (Self::Prepared { since, until: end }, Step::Activate) => {
                let why = "proxies exist that trust the old root alone, and would refuse what the new one signs";
                waited(step, since, end, facts, why)?;
                Ok(Self::Activated { since: facts.now, until })
            }
            (Self::Activated { since, until: end }, Step::Retire) => {
                let why = "certificates of the old root are in use, and would be refused";
                waited(step, since, end, facts, why)?;
                Ok(Self::Steady)
            }
            (stage, step) => Err(Refused::Order { step, stage: stage.name(), remedy: remedy(&stage) }),
        }
    }

    /// How long until the next step is safe by itself; none when there is nothing to wait for.
    pub fn wait(&self, now: SystemTime) -> Option<Duration> {
        match self {
            Self::Steady => None,
            Self::Prepared { until, .. } | Self::Activated { until, .. } => {
                until.duration_since(now).ok().filter(|left| !left.is_zero())
            }
        }
    }

    /// The step that follows.
    pub fn following(&self) -> Step {
        match self {
            Self::Steady => Step::Prepare,
            Self::Prepared { .. } => Step::Activate,
            Self::Activated { .. } => Step::Retire,
        }
    }
}

fn waited(step: Step, since: SystemTime, end: SystemTime, facts: Facts, why: &'static str) -> Result<(), Refused> {
    let passed = match facts.now.duration_since(since) {
        Ok(passed) => passed,
        Err(ahead) if ahead.duration() <= Duration::from_secs(1) => Duration::ZERO,
        Err(ahead) => return Err(Refused::Clock(ahead.duration())),
    };
    if let Some(left) = PROPAGATION.checked_sub(passed).filter(|left| !left.is_zero()) {
        return Err(Refused::Early { step, wait: left, why: "what was published has not arrived everywhere" });
    }
    match end.duration_since(facts.now) {
        Ok(left) if !left.is_zero() && !facts.renewed => Err(Refused::Early { step, wait: left, why }),
        _ => Ok(()),
    }
}

fn remedy(stage: &Stage) -> &'static str {
    match stage {
        Stage::Steady => "no change is under way: begin with prepare",
        Stage::Prepared { .. } => "the new root is prepared: activate comes next",
        Stage::Activated { .. } => "the new root signs: retire comes next",
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Retire => "retire",
        })
    }
}

/// A length of time for people: two units, rounded up, so that who waits so long has waited enough.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0);
        let minutes = seconds.div_ceil(60);
        match seconds {
            0..=119 => write!(f, "{seconds}s"),
            120..=86_399 if minutes < 1440 => write!(f, "{}h{:02}m", minutes / 60, minutes % 60),
            _ => write!(f, "{}d{:02}h", seconds.div_ceil(3600) / 24, seconds.div_ceil(3600) % 24),
        }
    }
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
