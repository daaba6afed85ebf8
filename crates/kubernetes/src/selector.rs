//! Label selectors (`metav1.LabelSelector`), with an answer that can be "cannot be told".

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Whether a selector selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// No.
    No,
    /// It holds a requirement that cannot be evaluated, and none that fails. What is safe then is for the caller to say:
    /// a policy applies, a peer is not one.
    Unknown,
    /// Yes.
    Yes,
}

/// A label selector: all of its requirements must hold. Without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Box<[Requirement]>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Requirement {
    key: Box<str>,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Operator {
    Absent,
    In(Box<[Box<str>]>),
    NotIn(Box<[Box<str>]>),
    Present,
    Unknown,
}

/// A requirement that cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Index in `matchExpressions`.
    pub index: usize,
    /// What is wrong with it.
    pub what: String,
}

/// How much of an operator is repeated in a message.
const SHOWN: usize = 40;

impl Selector {
    /// Reads a selector, and says what in it cannot be evaluated. The rules are those of apimachinery
    /// (`LabelSelectorAsSelector`): In and NotIn want values, Exists and DoesNotExist none.
    pub fn new(selector: &LabelSelector) -> (Self, Vec<Broken>) {
        let equal = selector.match_labels.iter().flatten().map(|(key, value)| Requirement {
            key: key.as_str().into(),
            operator: Operator::In([value.as_str().into()].into()),
        });
        let mut all: Vec<Requirement> = equal.collect();
        let mut broken = Vec::new();
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let operator = operator(expression).unwrap_or_else(|what| {
                broken.push(Broken { index, what });
                Operator::Unknown
            });
            all.push(Requirement { key: expression.key.as_str().into(), operator });
        }
        all.sort();
        all.dedup();
        (Self(all.into()), broken)
    }

    /// Whether it selects what has these labels; `label` gives the value of one.
    pub fn answer<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> Answer {
        self.0.iter().map(|r| r.answer(label(&r.key))).min().unwrap_or(Answer::Yes)
    }

    /// Whether it has no requirement.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Requirement {
    fn answer(&self, value: Option<&str>) -> Answer {
        let holds = match &self.operator {
            Operator::Absent => value.is_none(),
            Operator::In(list) => value.is_some_and(|v| list.iter().any(|x| **x == *v)),
            Operator::NotIn(list) => value.is_none_or(|v| list.iter().all(|x| **x != *v)),
            Operator::Present => value.is_some(),
            Operator::Unknown => return Answer::Unknown,
        };
        if holds { Answer::Yes } else { Answer::No }
    }
}

fn operator(expression: &LabelSelectorRequirement) -> Result<Operator, String> {
    let values: Box<[Box<str>]> = expression.values.iter().flatten().map(|v| v.as_str().into()).collect();
    match (expression.operator.as_str(), values.is_empty()) {
        ("In", false) => Ok(Operator::In(values)),
        ("NotIn", false) => Ok(Operator::NotIn(values)),
        ("Exists", true) => Ok(Operator::Present),
        ("DoesNotExist", true) => Ok(Operator::Absent),
        (known @ ("In" | "NotIn"), true) => Err(format!("operator {known} without values")),
        (known @ ("Exists" | "DoesNotExist"), false) => Err(format!("operator {known} with values")),
        (other, _) => {
            let shown: String = other.chars().take(SHOWN).collect();
            Err(format!("{shown:?} is not an operator"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_selects_as_kubernetes_says_and_a_broken_one_is_told() {
        let labels = |key: &str| match key {
            "app" => Some("web"),
            "tier" => Some("front"),
            _ => None,
        };
        for (json, want, broken) in [
            (r#"{}"#, Answer::Yes, 0),
            (r#"{"matchLabels":{"app":"web"}}"#, Answer::Yes, 0),
            (r#"{"matchLabels":{"app":"web","tier":"back"}}"#, Answer::No, 0),
            (r#"{"matchLabels":{"none":""}}"#, Answer::No, 0),
            (r#"{"matchExpressions":[{"key":"app","operator":"In","values":["db","web"]}]}"#, Answer::Yes, 0),
            (r#"{"matchExpressions":[{"key":"none","operator":"In","values":["db"]}]}"#, Answer::No, 0),
            (r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["db"]}]}"#, Answer::Yes, 0),
            (r#"{"matchExpressions":[{"key":"none","operator":"NotIn","values":["db"]}]}"#, Answer::Yes, 0),
            (r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}"#, Answer::No, 0),
            (r#"{"matchExpressions":[{"key":"app","operator":"Exists"}]}"#, Answer::Yes, 0),
            (r#"{"matchExpressions":[{"key":"none","operator":"Exists"}]}"#, Answer::No, 0),
            (r#"{"matchExpressions":[{"key":"app","operator":"DoesNotExist"}]}"#, Answer::No, 0),
            (r#"{"matchExpressions":[{"key":"none","operator":"DoesNotExist"}]}"#, Answer::Yes, 0),
            (r#"{"matchExpressions":[{"key":"app","operator":"Like"}]}"#, Answer::Unknown, 1),
            (r#"{"matchExpressions":[{"key":"app","operator":"In"}]}"#, Answer::Unknown, 1),
            (r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":[]}]}"#, Answer::Unknown, 1),
            (r#"{"matchExpressions":[{"key":"app","operator":"Exists","values":["x"]}]}"#, Answer::Unknown, 1),
            (r#"{"matchExpressions":[{"key":"app","operator":""}]}"#, Answer::Unknown, 1),
            // What surely fails is not saved by what cannot be told.
            (r#"{"matchLabels":{"app":"db"},"matchExpressions":[{"key":"app","operator":"Like"}]}"#, Answer::No, 1),
        ] {
            let (selector, faults) = Selector::new(&serde_json::from_str(json).unwrap());
            assert_eq!(selector.answer(labels), want, "{json}");
            assert_eq!(faults.len(), broken, "{json}");
        }
    }

    #[test]
    fn two_ways_to_write_one_selector_are_equal() {
        let read = |json| Selector::new(&serde_json::from_str(json).unwrap()).0;
        let a = read(r#"{"matchLabels":{"b":"2","a":"1"}}"#);
        let b = read(
            r#"{"matchExpressions":[{"key":"b","operator":"In","values":["2"]},{"key":"a","operator":"In","values":["1"]}]}"#,
        );
        assert_eq!(a, b);
    }
}
