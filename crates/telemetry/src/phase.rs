//! The steps of a connection and how long each took.

use std::time::{Duration, Instant};

/// A step of a connection, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From accept until source, destination and namespace are known.
    Capture,
    /// Discovery says where the destination is.
    Resolve,
    /// Policy decides.
    Policy,
    /// A certificate, a tunnel slot or a waypoint is chosen.
    Pick,
    /// A TCP connection to the next hop.
    Connect,
    /// A tunnel that was already open.
    Reuse,
    /// TLS and HTTP/2 of a new tunnel, up to the answer to CONNECT.
    Handshake,
}

/// Something that happens at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The first byte came back from the destination.
    FirstByte,
    /// The connection ended.
    Close,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 7] =
        [Self::Capture, Self::Resolve, Self::Policy, Self::Pick, Self::Connect, Self::Reuse, Self::Handshake];

    /// The name in spans and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Resolve => "resolve",
            Self::Policy => "policy",
            Self::Pick => "pick",
            Self::Connect => "connect",
            Self::Reuse => "reuse",
            Self::Handshake => "handshake",
        }
    }
}

impl Mark {
    /// The name of the span event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte",
            Self::Close => "close",
        }
    }
}

/// When each phase began and how long it lasted, in microseconds from accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// (begin, length) by [`Phase`].
    slots: [Option<(u32, u32)>; Phase::ALL.len()],
    running: Option<Phase>,
}

impl Timings {
    /// Begins a phase and ends the one before it.
    pub fn enter(&mut self, phase: Phase, since_start: Duration) {
        self.leave(since_start);
        self.slots[phase as usize] = Some((micros(since_start), 0));
        self.running = Some(phase);
    }

    /// Ends the running phase, if there is one.
    pub fn leave(&mut self, since_start: Duration) {
        if let Some(phase) = self.running.take()
            && let Some((begin, length)) = &mut self.slots[phase as usize]
        {
            *length = micros(since_start).saturating_sub(*begin);
        }
    }

    /// Notes a phase that somebody else measured.
    pub fn measured(&mut self, phase: Phase, begin: Duration, length: Duration) {
        self.slots[phase as usize] = Some((micros(begin), micros(length)));
    }

    /// Begin (from accept) and length of a phase, if it took place.
    pub fn get(&self, phase: Phase) -> Option<(Duration, Duration)> {
        let (begin, length) = self.slots[phase as usize]?;
        Some((Duration::from_micros(begin.into()), Duration::from_micros(length.into())))
    }

    /// Every phase that took place, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Phase, Duration, Duration)> + '_ {
        Phase::ALL.into_iter().filter_map(|p| self.get(p).map(|(begin, length)| (p, begin, length)))
    }
}

/// Time from `start` to `at`, zero when `at` is earlier.
pub(crate) fn since(start: Instant, at: Instant) -> Duration {
    at.saturating_duration_since(start)
}

fn micros(duration: Duration) -> u32 {
    // 2^32 µs are 71 minutes; no set-up takes that long, and a longer one is cut rather than wrapped.
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entering_a_phase_ends_the_one_before() {
        let us = Duration::from_micros;
        let mut timings = Timings::default();
        timings.enter(Phase::Capture, us(0));
        timings.enter(Phase::Resolve, us(30));
        timings.leave(us(45));
        timings.leave(us(99));
        timings.measured(Phase::Connect, us(50), us(200));
        let all: Vec<_> = timings.iter().collect();
        assert_eq!(
            all,
            [(Phase::Capture, us(0), us(30)), (Phase::Resolve, us(30), us(15)), (Phase::Connect, us(50), us(200)),]
        );
    }
}
