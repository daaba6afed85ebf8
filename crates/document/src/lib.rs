//! Reads a YAML document strictly: every mistake at once, each with file, line, column, field, what is wrong and remedy.
//!
//! A document passes four gates, and a later gate also runs when an earlier one found mistakes, so that one look shows
//! all of them:
//!
//! 1. YAML itself (`tree`): one document; no key twice; no anchors, aliases, merge keys or tags, because a reader of a
//!    configuration must not have to expand it in the head; at most [`MAX_DEPTH`] levels.
//! 2. The schema that `schemars` derives from the type (`schema`). Callers derive `#[serde(deny_unknown_fields)]`, so
//!    that unknown keys are mistakes, answered with the nearest known key.
//! 3. Deserialisation (`read`): what a schema cannot say, such as a text that is not an address.
//! 4. The type's own [`Check`], on values that passed all of the above.
//!
//! A syntax error ends the reading at once, since what follows it cannot be told.

pub mod watch;

mod check;
mod mistake;
mod nearest;
mod pointer;
mod read;
mod schema;
mod text;
mod tree;
mod variables;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

pub use check::{Check, Place, Report};
pub use mistake::{Mistake, Mistakes};
pub use text::{CidrText, Size, Span, TextError};

/// Levels of nesting that a document may have. Ours need less than 12; what comes from a user must not end in a stack
/// overflow, and 64 levels fit any stack.
pub const MAX_DEPTH: usize = 64;

/// Bytes that [`load`] reads at most: 70 000 workloads take about 40 MB, and a device file must not fill the memory.
pub const MAX_BYTES: u64 = 256 << 20;

/// Reads the text of a document. `file` is only used to name it in mistakes.
///
/// # Errors
/// All mistakes, ordered by line and column.
pub fn parse<T: DeserializeOwned + JsonSchema + Check>(file: &str, text: &str) -> Result<T, Mistakes> {
    make(file, tree::build(text))
}

fn make<T: DeserializeOwned + JsonSchema + Check>(file: &str, found: tree::Built) -> Result<T, Mistakes> {
    let mut ledger = mistake::Ledger::new(file, found.mistakes);
    let Some(root) = found.root else { return Err(ledger.close()) };
    let value = root.to_json();
    let mut poisoned = found.poisoned;
    for wrong in schema::check::<T>(&value, &root, &poisoned) {
        poisoned.push(wrong.pointer.clone());
        ledger.add(&root, wrong);
    }
    let (made, unread) = read::read::<T>(&value);
    for wrong in unread {
        // The schema spoke about this place, or one above or below it, and says it better.
        if !poisoned.iter().any(|p| pointer::covers(p, &wrong.pointer) || pointer::covers(&wrong.pointer, p)) {
            ledger.add(&root, wrong);
        }
    }
    match made {
        Some(made) if ledger.is_empty() => {
            let mut report = Report::default();
            made.check(&mut report);
            for wrong in report.into_wrongs() {
                ledger.add(&root, wrong);
            }
            if ledger.is_empty() { Ok(made) } else { Err(ledger.close()) }
        }
        _ => Err(ledger.close()),
    }
}

/// Reads a file; see [`parse`]. A file that cannot be read is a mistake at 1:1.
///
/// # Errors
/// All mistakes, ordered by line and column.
pub fn load<T: DeserializeOwned + JsonSchema + Check>(path: &Path) -> Result<T, Mistakes> {
    let (name, text) = read_file(path)?;
    parse(&name, &text)
}

/// Reads a file in whose texts `${NAME}` stands for what `look_up` says of `NAME`; see [`load`]. A name without a value is a
/// mistake.
///
/// # Errors
/// All mistakes, ordered by line and column.
pub fn load_with<T: DeserializeOwned + JsonSchema + Check>(
    path: &Path,
    look_up: impl Fn(&str) -> Option<String>,
) -> Result<T, Mistakes> {
    let (name, text) = read_file(path)?;
    let mut found = tree::build(&text);
    if let Some(root) = &mut found.root {
        variables::expand(root, &look_up, &mut found.mistakes);
    }
    make(&name, found)
}

/// The file's name, for mistakes, and its text.
fn read_file(path: &Path) -> Result<(String, String), Mistakes> {
    let name = path.display().to_string();
    let fail = |line, column, what: String, remedy: &str| {
        Mistakes(vec![Mistake {
            file: name.clone(),
            line,
            column,
            field: String::new(),
            what,
            remedy: remedy.to_owned(),
        }])
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    if let Err(e) = read {
        return Err(fail(1, 1, format!("cannot read the file: {e}"), "check the path and its permissions"));
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail(1, 1, format!("the file is larger than {MAX_BYTES} bytes"), "split the file"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((name, text)),
        Err(e) => {
            let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|b| **b == b'\n').count();
            let start = good.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            let column = 1 + String::from_utf8_lossy(&good[start..]).chars().count();
            Err(fail(line, column, "not UTF-8".to_owned(), "save the file as UTF-8"))
        }
    }
}

#[cfg(test)]
mod tests;
