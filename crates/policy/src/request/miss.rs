//! Which ALLOW rule came closest, and what it lacked.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use super::compile::Policy;
use super::fields::Test;
use super::matching::{CompiledRule, Facts, Reading};

/// The ALLOW rule that came closest. Prints `shop/api rule 0: methods want GET, got POST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// Key of the policy, `namespace/name`.
    pub policy: Arc<str>,
    /// Index of the rule.
    pub rule: usize,
    /// The first field that failed, as the API calls it.
    pub field: Arc<str>,
    /// The wanted values, bounded in number and length.
    pub wanted: String,
    /// What the request had instead; values of headers and claims are not shown.
    pub got: String,
    /// How many more fields failed besides.
    pub others: usize,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}: {} want {}, got {}", self.policy, self.rule, self.field, self.wanted, self.got)?;
        match self.others {
            0 => Ok(()),
            n => write!(f, " (and {n} more)"),
        }
    }
}

/// The nearest miss among ALLOW policies of which no rule matched; `None` when they have no rules.
pub(crate) fn nearest<'a>(facts: &Facts<'_>, policies: impl Iterator<Item = &'a Policy>) -> Option<Miss> {
    let rules = policies.filter_map(|p| Some((p, p.rules.as_ref().ok()?)));
    let rules = rules.flat_map(|(p, rules)| rules.iter().enumerate().map(move |(i, r)| (p, i, r)));
    let lacks = rules.filter_map(|(policy, i, rule)| Some((lack(facts, rule)?, policy, i)));
    let (lack, policy, rule) = lacks.min_by_key(|(lack, ..)| (lack.failing, Reverse(lack.holding)))?;
    let but = if lack.first.not { "anything but " } else { "" };
    Some(Miss {
        policy: policy.key.clone(),
        rule,
        field: lack.first.name.clone(),
        wanted: format!("{but}{}", lack.first.field.wanted()),
        got: lack.first.field.got(facts),
        others: lack.failing - 1,
    })
}

/// What a rule lacks: of each list of alternatives, the one that came closest counts.
struct Lack<'a> {
    first: &'a Test,
    failing: usize,
    holding: usize,
}

fn lack<'a>(facts: &Facts<'_>, rule: &'a CompiledRule) -> Option<Lack<'a>> {
    let parts = [closest(facts, &rule.from), closest(facts, &rule.to), Some(&rule.when)];
    let tests: Vec<&Test> = parts.into_iter().flatten().flatten().collect();
    let failing: Vec<&Test> = tests.iter().copied().filter(|t| !facts.holds(t, Reading::Narrow)).collect();
    let first = failing.first().copied()?;
    Some(Lack { first, failing: failing.len(), holding: tests.len() - failing.len() })
}

fn closest<'a>(facts: &Facts<'_>, alternatives: &'a [Vec<Test>]) -> Option<&'a Vec<Test>> {
    let failing = |tests: &Vec<Test>| tests.iter().filter(|t| !facts.holds(t, Reading::Narrow)).count();
    alternatives.iter().min_by_key(|tests| (failing(tests), Reverse(tests.len())))
}
