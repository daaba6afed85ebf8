//! What is wrong with a table, found while it is compiled.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use crate::filter::LocalRate;
use crate::model::{self, RouteName};

/// What is wrong with one rule. The rule answers 500 until it is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The rule.
    pub route: Arc<RouteName>,
    /// Which field, what is wrong, and the remedy.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.route, self.problem)
    }
}

/// Bytes that one compiled regular expression may take. A Service may have thousands of them; what people write for paths and
/// headers takes a few KiB, large counted repetitions (`(?u)\w{1,500}`) take megabytes.
const REGEX_SIZE: usize = 256 * 1024;

/// Depth of groups in a regular expression, so that a hostile one cannot use up the stack (the crate's default is 250).
const REGEX_DEPTH: u32 = 50;

/// Collects what is wrong with one rule, and holds what rules share.
#[derive(Default)]
pub(crate) struct Workbench {
    problems: Vec<String>,
    /// Those that cost no more than a backend's share.
    lesser: Vec<String>,
    /// By their text: many rules use the same few. `None` where it is not usable, and the problem.
    regexes: HashMap<String, Result<Regex, String>>,
    /// Bounds of requests by their names, with what they have counted.
    rates: Rates,
    /// Those of the router that this one stands in for.
    before: Rates,
}

/// Bounds of requests by their names.
pub(crate) type Rates = HashMap<Arc<str>, Arc<LocalRate>>;

impl Workbench {
    /// A bench on which bounds go on counting where the ones of the same name have come to.
    pub(crate) fn after(before: &Rates) -> Self {
        Self { before: before.clone(), ..Self::default() }
    }

    /// A bound of requests. Those of one name that bound alike are one; of others the later one has the name.
    pub(crate) fn rate(&mut self, place: &str, rate: &model::LocalRate) -> Option<Arc<LocalRate>> {
        let made = self.keep(place, LocalRate::new(rate))?;
        let Some(name) = &rate.name else { return Some(Arc::new(made)) };
        let known =
            [&self.rates, &self.before].into_iter().find_map(|all| all.get(name).filter(|k| k.bounds_as(&made)));
        let rate = known.cloned().unwrap_or_else(|| Arc::new(made));
        self.rates.insert(name.clone(), rate.clone());
        Some(rate)
    }

    /// Every bound that has a name.
    pub(crate) fn into_rates(self) -> Rates {
        self.rates
    }

    /// Notes a problem at a place.
    pub(crate) fn note(&mut self, place: &str, problem: impl fmt::Display) {
        self.problems.push(format!("{place}: {problem}"));
    }

    /// The value, or `None` and a note.
    pub(crate) fn keep<T, E: fmt::Display>(&mut self, place: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|e| self.note(place, e)).ok()
    }

    /// Takes what was noted since the last call.
    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Puts back what [`Workbench::take`] gave, and files what a part of the rule pays for by itself.
    pub(crate) fn put_back(&mut self, problems: Vec<String>, lesser: Vec<String>) {
        self.problems = problems;
        self.lesser.extend(lesser);
    }

    /// Takes what only a part of the rule pays for.
    pub(crate) fn take_lesser(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lesser)
    }

    /// A regular expression that must match the whole of a text.
    pub(crate) fn regex(&mut self, place: &str, pattern: &str) -> Option<Regex> {
        if !self.regexes.contains_key(pattern) {
            self.regexes.insert(pattern.to_owned(), whole(pattern));
        }
        let made = self.regexes.get(pattern).cloned()?;
        self.keep(place, made)
    }
}

/// Whether a text is a regular expression that routes can use: for whoever tells users before a route comes here.
///
/// # Errors
/// What is wrong with it.
pub fn check_expression(pattern: &str) -> Result<(), String> {
    whole(pattern).map(|_| ())
}

fn whole(pattern: &str) -> Result<Regex, String> {
    let build = |text: &str| {
        // Without Unicode an expression is made five times as fast and takes two thirds of the memory (`bench routes`), and
        // `\w`, `\d` and `(?i)` mean what they mean to RE2.
        let made = RegexBuilder::new(text).unicode(false).size_limit(REGEX_SIZE).nest_limit(REGEX_DEPTH).build();
        made.map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => {
                format!("{pattern:?} takes more than {REGEX_SIZE} bytes when compiled; use smaller repetitions")
            }
            // The message shows the pattern over several lines; the last one is the cause.
            other => {
                let text = other.to_string();
                let cause = text.trim_end().lines().last().unwrap_or_default().trim_start_matches("error: ");
                let remedy = if cause.contains("Unicode not allowed") { "; put (?u) in front" } else { "" };
                format!("{pattern:?} is not a regular expression: {cause}{remedy}")
            }
        })
    };
    // By itself first: "a)|(b" would be something else inside of a group.
    build(pattern)?;
    // In mode `x` a comment at the end would swallow the closing parenthesis; that is an error, not another meaning.
    build(&format!(r"\A(?:{pattern})\z"))
}
