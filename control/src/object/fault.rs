//! What is wrong with an object, for its owner.

use std::fmt;

/// What is wrong with one field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, `spec.ports[1].port`.
    pub field: String,
    /// What is wrong, and what follows from it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Fault {
    /// A fault. What a user wrote is cut before it comes in (see [`shown`]).
    pub fn new(field: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.what, self.remedy)
    }
}

/// How much of a user's text is repeated in a message: enough to recognise it, too little for a text of 1 MiB to fill a
/// condition (whose message holds at most 32 768 bytes, apimachinery `metav1.Condition`).
const SHOWN: usize = 80;

/// A user's text for a message, in quotes, cut to a length that a condition can hold.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Most faults of one object that are kept. A hostile object may hold thousands of broken fields; the first few name the
/// mistake, and the count says how many follow.
pub const MAX_FAULTS: usize = 16;

/// The faults of one object: the first ones, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    list: Vec<Fault>,
    more: usize,
}

impl Faults {
    /// Notes one.
    pub fn push(&mut self, fault: Fault) {
        if self.list.len() < MAX_FAULTS {
            self.list.push(fault);
        } else {
            self.more += 1;
        }
    }

    /// Notes one from its parts.
    pub fn add(&mut self, field: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) {
        self.push(Fault::new(field, what, remedy));
    }

    /// Notes all of another list.
    pub fn extend(&mut self, other: &Self) {
        for fault in &other.list {
            self.push(fault.clone());
        }
        self.more += other.more;
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The first [`MAX_FAULTS`].
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.list.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.list.iter().enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { ". " })?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, ". And {more} more"),
        }
    }
}

/// A port number, if it is one.
pub(crate) fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|p| *p != 0)
}

/// A number that is not a port.
pub(crate) fn bad_port(field: impl Into<String>, number: i64) -> Fault {
    Fault::new(field, format!("{number} is not a port, so it is left out"), "write a number from 1 to 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_short_however_much_is_wrong() {
        let mut faults = Faults::default();
        for i in 0..10_000 {
            faults.add(format!("spec.addresses[{i}]"), shown(&"x".repeat(1 << 20)), "write an address");
        }
        let text = faults.to_string();
        assert!(text.len() < 4096, "{}", text.len());
        assert!(text.ends_with(". And 9984 more"), "{text}");
    }

    #[test]
    fn ports_are_1_to_65535() {
        assert_eq!([-1, 0, 1, 65535, 65536].map(port), [None, None, Some(1), Some(65535), None]);
    }
}
