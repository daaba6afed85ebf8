//! Which socket options lead around the capture.

use crate::{connect::STREAM, marks};

/// `SOL_SOCKET`.
pub const SOL_SOCKET: i32 = 1;
/// `SO_BINDTODEVICE`.
pub const SO_BINDTODEVICE: i32 = 25;
/// `SO_MARK`.
pub const SO_MARK: i32 = 36;
/// `SO_BINDTOIFINDEX`.
pub const SO_BINDTOIFINDEX: i32 = 62;

/// Value of SO_BINDTODEVICE for the loopback device, and for none.
pub const LO: [u8; 4] = *b"lo\0\0";
/// See [`LO`].
pub const NO_DEVICE: [u8; 4] = [0; 4];

/// What is known when an option is set.
#[derive(Clone, Copy, Debug)]
pub struct OptionFacts {
    /// The namespace is enrolled or leaving.
    pub pod: bool,
    /// The socket carries a proxy's tag, or the caller runs in a proxy's cgroup.
    pub proxy: bool,
    /// `SOCK_STREAM` or another type.
    pub kind: u32,
    /// The option.
    pub option: (i32, i32),
    /// First four bytes of the value; `None` when it is shorter or cannot be read.
    pub value: Option<u32>,
    /// The socket's mark.
    pub mark: u32,
}

/// What the hook does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetOption {
    /// Not ours: the kernel reads the caller's buffer itself.
    Ignore,
    /// Allowed as seen here. The kernel must use the four bytes that were judged and not read the caller's memory again, where
    /// another thread may have put other ones.
    AllowSeen,
    /// EPERM.
    Refuse,
}

/// Decides a setsockopt(2).
#[inline(always)]
pub const fn setsockopt(facts: &OptionFacts) -> SetOption {
    if facts.proxy || !facts.pod || facts.option.0 != SOL_SOCKET {
        return SetOption::Ignore;
    }
    match facts.option.1 {
        SO_MARK => mark(facts),
        // Before connect a bound socket is refused there; afterwards it would leave by the device.
        SO_BINDTODEVICE | SO_BINDTOIFINDEX if facts.kind == STREAM && marks::ours(facts.mark) => SetOption::Refuse,
        _ => SetOption::Ignore,
    }
}

#[inline(always)]
const fn mark(facts: &OptionFacts) -> SetOption {
    // A captured socket keeps its mark: without it the next packet would be routed to the wire.
    if marks::ours(facts.mark) {
        return SetOption::Refuse;
    }
    match facts.value {
        Some(value) if !marks::ours(value) => SetOption::AllowSeen,
        // Our bits, or a value that could not be read.
        _ => SetOption::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(option: (i32, i32), value: u32, mark: u32) -> OptionFacts {
        OptionFacts { pod: true, proxy: false, kind: STREAM, option, value: Some(value), mark }
    }

    #[test]
    fn apps() {
        for (f, expected) in [
            (facts((1, SO_MARK), 0x539, 0), SetOption::AllowSeen),
            (facts((1, SO_MARK), 0x1000, 0), SetOption::Refuse),
            (facts((1, SO_MARK), 0x2001, 0), SetOption::Refuse),
            (facts((1, SO_MARK), 0xffff_ffff, 0), SetOption::Refuse),
            (facts((1, SO_MARK), 0, 0x1000), SetOption::Refuse),
            (facts((1, SO_MARK), 7, 0x2000), SetOption::Refuse),
            (OptionFacts { value: None, ..facts((1, SO_MARK), 0, 0) }, SetOption::Refuse),
            (facts((1, SO_BINDTODEVICE), 0, 0x1000), SetOption::Refuse),
            (facts((1, SO_BINDTOIFINDEX), 2, 0x2000), SetOption::Refuse),
            (facts((1, SO_BINDTODEVICE), 0, 0), SetOption::Ignore),
            (facts((6, 1), 1, 0x1000), SetOption::Ignore),
            (OptionFacts { pod: false, ..facts((1, SO_MARK), 0x1000, 0) }, SetOption::Ignore),
        ] {
            assert_eq!(setsockopt(&f), expected, "{f:?}");
        }
    }

    #[test]
    fn proxies() {
        let proxy = |option, value| OptionFacts { proxy: true, ..facts(option, value, 0) };
        assert_eq!(setsockopt(&proxy((1, SO_MARK), 0x2000)), SetOption::Ignore);
        assert_eq!(setsockopt(&proxy((1, SO_BINDTODEVICE), 0)), SetOption::Ignore);
    }
}
