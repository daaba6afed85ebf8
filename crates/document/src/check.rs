//! Checks of meaning, after the shape of a document is right.

use std::fmt::Display;

use crate::mistake::Wrong;
use crate::pointer;

/// What a type knows to be wrong beyond its shape, such as two listeners on one port.
///
/// Runs only on values whose shape is right, and reports everything that it finds.
pub trait Check {
    /// Reports what is wrong.
    fn check(&self, report: &mut Report) {
        let _ = report;
    }
}

/// Receives what a [`Check`] finds.
#[derive(Debug, Default)]
pub struct Report {
    prefix: String,
    wrongs: Vec<Wrong>,
}

impl Report {
    /// A place by JSON pointer (RFC 6901), as in `/pods/0/port`; empty for the whole. Keys that hold `/` are easier
    /// with [`Place::at`].
    pub fn at(&mut self, pointer: &str) -> Place<'_> {
        let pointer = format!("{}{pointer}", self.prefix);
        Place { report: self, pointer }
    }

    /// Whether nothing was found so far.
    pub fn is_empty(&self) -> bool {
        self.wrongs.is_empty()
    }

    pub(crate) fn into_wrongs(self) -> Vec<Wrong> {
        self.wrongs
    }
}

/// A place in the document that something can be said about.
#[derive(Debug)]
pub struct Place<'a> {
    report: &'a mut Report,
    pointer: String,
}

impl Place<'_> {
    /// One level further: a key or an index.
    #[must_use]
    pub fn at(mut self, segment: impl Display) -> Self {
        self.pointer = pointer::join(&self.pointer, &segment.to_string());
        self
    }

    /// Says what is wrong here, and what to do about it.
    pub fn mistake(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        let pointer = self.pointer.clone();
        self.report.wrongs.push(Wrong { pointer, at_key: false, what: what.into(), remedy: remedy.into() });
    }

    /// Runs the check of a part of the document that stands at this place.
    pub fn check(&mut self, part: &impl Check) {
        let outer = std::mem::replace(&mut self.report.prefix, self.pointer.clone());
        part.check(self.report);
        self.report.prefix = outer;
    }
}
