//! What a user is told about one thing that is wrong.

use std::fmt;

use crate::pointer;
use crate::tree::Node;

/// One thing that is wrong in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Name of the file as the caller gave it.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The field, as in `pods[2].port`; empty for the document as a whole.
    pub field: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// All that is wrong in a document, ordered by line and column. Prints one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(
    /// The mistakes; never empty in an error that this crate returns.
    pub Vec<Mistake>,
);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

/// A mistake that knows its place only by JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Where (RFC 6901); empty is the root.
    pub(crate) pointer: String,
    /// Point at the key of the last segment, not at its value.
    pub(crate) at_key: bool,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// Collects mistakes and gives them their places.
pub(crate) struct Ledger<'a> {
    file: &'a str,
    mistakes: Vec<Mistake>,
}

impl<'a> Ledger<'a> {
    pub(crate) fn new(file: &'a str, mut mistakes: Vec<Mistake>) -> Self {
        for m in &mut mistakes {
            file.clone_into(&mut m.file);
        }
        Self { file, mistakes }
    }

    pub(crate) fn add(&mut self, root: &Node, wrong: Wrong) {
        let found = pointer::locate(root, &wrong.pointer);
        let at = if wrong.at_key { found.key } else { found.value };
        self.mistakes.push(Mistake {
            file: self.file.to_owned(),
            line: at.line,
            column: at.column,
            field: found.field,
            what: wrong.what,
            remedy: wrong.remedy,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// The mistakes in order of place; those of one place stay in the order in which they were found.
    pub(crate) fn close(mut self) -> Mistakes {
        self.mistakes.sort_by_key(|m| (m.line, m.column));
        self.mistakes.dedup();
        Mistakes(self.mistakes)
    }
}
