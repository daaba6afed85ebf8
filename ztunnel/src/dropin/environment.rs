//! Variables, looked up by name, and what is wrong with them.

use std::collections::BTreeMap;
use std::time::Duration;

use document::Span;

use super::Mistake;

/// All variables.
pub(crate) type Environment = BTreeMap<String, String>;

/// Looks variables up, first in the environment and then in `proxyMetadata`, and collects mistakes.
pub(super) struct Reader<'a> {
    own: &'a Environment,
    below: &'a Environment,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(own: &'a Environment, below: &'a Environment) -> Self {
        Self { own, below, mistakes: Vec::new() }
    }

    /// The mistakes found.
    pub(super) fn finish(self) -> Vec<Mistake> {
        self.mistakes
    }

    /// The trimmed value, also when it is empty.
    pub(super) fn given(&self, name: &str) -> Option<&'a str> {
        self.own.get(name).or_else(|| self.below.get(name)).map(|value| value.trim())
    }

    /// The trimmed value; an empty one counts as none.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.given(name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// All variables with a prefix, without it.
    pub(super) fn with_prefix(&self, prefix: &str) -> BTreeMap<&'a str, &'a str> {
        let both = self.below.iter().chain(self.own);
        both.filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value.trim()))).collect()
    }

    /// A value that `parse` understands.
    pub(super) fn parsed<T>(&mut self, name: &str, remedy: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.wrong(name, format!("{text:?} cannot be used"), remedy);
        }
        parsed
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.parsed(name, "use true or false", |text| text.parse().ok())
    }

    /// A duration, such as `5s`.
    pub(super) fn span(&mut self, name: &str) -> Option<Duration> {
        let remedy = "use a number and a unit (ms, s, m, h), such as 5s or 1h30m";
        self.parsed(name, remedy, |text| text.parse::<Span>().ok().map(Duration::from))
    }

    /// Notes a mistake.
    pub(super) fn wrong(&mut self, name: &str, what: impl Into<String>, remedy: &str) {
        self.mistakes.push(Mistake { variable: name.to_owned(), what: what.into(), remedy: remedy.to_owned() });
    }
}
