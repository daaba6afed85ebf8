//! The shape of a document: what JSON Schema finds, said so that the writer of the file knows what to do.

use std::collections::BTreeSet;

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{JsonType, ValidationError};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use crate::mistake::Wrong;
use crate::nearest::nearest;
use crate::pointer;
use crate::tree::Node;

/// How many allowed values or keys a remedy lists before it says "and N more": what fits two lines of a terminal.
const MAX_LISTED: usize = 20;

/// Everything in `value` that the schema of `T` does not allow, save at places that were spoken about already.
pub(crate) fn check<T: JsonSchema>(value: &Value, root: &Node, poisoned: &[String]) -> Vec<Wrong> {
    let schema = SchemaGenerator::default().into_root_schema_for::<T>().to_value();
    let validator = match jsonschema::validator_for(&schema) {
        Ok(validator) => validator,
        Err(e) => return vec![wrong("", format!("this program's schema is broken: {e}"), "report it as a bug")],
    };
    let mut explainer =
        Explainer { schema: &schema, value, root, poisoned, wrongs: Vec::new(), suggested: BTreeSet::new() };
    for error in validator.iter_errors(value) {
        explainer.explain(&error);
    }
    explainer.finish()
}

fn wrong(pointer: &str, what: String, remedy: impl Into<String>) -> Wrong {
    Wrong { pointer: pointer.to_owned(), at_key: false, what, remedy: remedy.into() }
}

struct Explainer<'a> {
    schema: &'a Value,
    value: &'a Value,
    root: &'a Node,
    poisoned: &'a [String],
    wrongs: Vec<(Wrong, Option<String>)>,
    /// Keys (as pointers) that an unknown key was probably meant to be.
    suggested: BTreeSet<String>,
}

impl<'a> Explainer<'a> {
    /// A key that is missing because it was misspelt is one mistake, not two.
    fn finish(self) -> Vec<Wrong> {
        let suggested = self.suggested;
        let told_once = |missing: &Option<String>| missing.as_ref().is_none_or(|m| !suggested.contains(m));
        self.wrongs.into_iter().filter(|(_, missing)| told_once(missing)).map(|(w, _)| w).collect()
    }

    fn add(&mut self, wrong: Wrong) {
        self.wrongs.push((wrong, None));
    }

    fn explain(&mut self, error: &ValidationError<'_>) {
        let place = error.instance_path().as_str();
        if self.poisoned.iter().any(|p| pointer::covers(p, place)) {
            return;
        }
        match error.kind() {
            Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
                for key in unexpected {
                    self.unknown_key(error, key);
                }
            }
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => self.alternatives(error, context),
            Kind::Required { property } => self.missing(error, property.as_str().unwrap_or_default()),
            Kind::Enum { options } => {
                let options: Vec<Value> = options.as_array().cloned().unwrap_or_default();
                self.not_one_of(place, &options, &BTreeSet::new());
            }
            Kind::Constant { expected_value } => {
                self.not_one_of(place, std::slice::from_ref(&**expected_value), &BTreeSet::new())
            }
            Kind::Type { kind } => {
                let wants = wanted(kind);
                self.wrong_type(place, &wants, self.sibling(error, "examples"));
            }
            Kind::Minimum { .. }
            | Kind::Maximum { .. }
            | Kind::ExclusiveMinimum { .. }
            | Kind::ExclusiveMaximum { .. } => {
                self.out_of_range(error);
            }
            _ => {
                let remedy = self.sibling(error, "description").and_then(Value::as_str).unwrap_or("change the value");
                let remedy = remedy.trim_end_matches('.').to_owned();
                self.add(wrong(place, error.to_string(), remedy));
            }
        }
    }

    /// The schema object that holds the keyword which failed.
    fn parent(&self, error: &ValidationError<'_>) -> Option<&'a Value> {
        let (parent, _) = error.schema_path().as_str().rsplit_once('/')?;
        self.schema.pointer(parent)
    }

    fn sibling(&self, error: &ValidationError<'_>, keyword: &str) -> Option<&'a Value> {
        self.parent(error)?.get(keyword)
    }

    /// Follows `$ref` to the schema that it names.
    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
        target.and_then(|t| self.schema.pointer(t)).unwrap_or(schema)
    }

    fn unknown_key(&mut self, error: &ValidationError<'_>, key: &str) {
        let place = error.instance_path().as_str();
        let properties = self.sibling(error, "properties").and_then(Value::as_object);
        let known: Vec<String> = properties.map(|p| p.keys().cloned().collect()).unwrap_or_default();
        let patterns = self.sibling(error, "patternProperties").is_some();
        // A key that is there already is not what was meant.
        let absent =
            known.iter().map(String::as_str).filter(|k| self.value.pointer(&pointer::join(place, k)).is_none());
        let guess = nearest(key, absent).map(str::to_owned);
        let remedy = match &guess {
            Some(guess) => format!("did you mean {guess:?}?"),
            None if patterns && known.is_empty() => "the keys here are whole numbers".to_owned(),
            None if known.is_empty() => "no keys are known here; remove it".to_owned(),
            None => format!("known keys: {}", listed(known.iter().map(String::as_str))),
        };
        self.suggested.extend(guess.map(|g| pointer::join(place, &g)));
        let mut said = wrong(&pointer::join(place, key), format!("unknown key {key:?}"), remedy);
        said.at_key = true;
        self.add(said);
    }

    fn missing(&mut self, error: &ValidationError<'_>, property: &str) {
        let place = error.instance_path().as_str();
        let schema = self.sibling(error, "properties").and_then(|p| p.get(property));
        let hint = schema.map(|s| self.resolved(s)).map(hint).unwrap_or_default();
        let said = wrong(place, format!("{property:?} is missing"), format!("add `{property}: {hint}`"));
        self.wrongs.push((said, Some(pointer::join(place, property))));
    }

    /// `keys` are what a map could hold here instead.
    fn not_one_of(&mut self, place: &str, options: &[Value], keys: &BTreeSet<&str>) {
        let mut texts: Vec<String> = options.iter().map(plain).collect();
        texts.dedup();
        let got = self.got(place);
        let guess = self
            .value
            .pointer(place)
            .and_then(Value::as_str)
            .and_then(|g| nearest(g, texts.iter().map(String::as_str)));
        let all = listed(texts.iter().map(String::as_str));
        let mut remedy = match (guess, texts.len()) {
            (_, 1) => format!("write {all}"),
            (Some(guess), _) => format!("did you mean {guess}? Use one of: {all}"),
            (None, _) => format!("use one of: {all}"),
        };
        if !keys.is_empty() {
            remedy.push_str(&format!(", or a map with one of: {}", listed(keys.iter().copied())));
        }
        self.add(wrong(place, format!("{got} is not allowed here"), remedy));
    }

    fn wrong_type(&mut self, place: &str, wants: &BTreeSet<&'static str>, examples: Option<&Value>) {
        let value = self.value.pointer(place).unwrap_or(&Value::Null);
        let got = self.got(place);
        let text = wants.contains("text");
        let inner = value.as_str().unwrap_or_default();
        let number = inner.parse::<f64>().is_ok() && wants.iter().any(|w| w.ends_with("number"));
        let examples: Vec<&str> =
            examples.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let remedy = if !examples.is_empty() {
            format!("write it like {}", examples.join(" or "))
        } else if value.is_null() {
            "give it a value, or remove the key".to_owned()
        } else if text && !(value.is_array() || value.is_object()) {
            format!("quote it: \"{}\"", self.raw(place))
        } else if number {
            format!("remove the quotes: {inner}")
        } else if wants.contains("true or false") && matches!(inner, "yes" | "on" | "no" | "off") {
            format!("write {}", matches!(inner, "yes" | "on"))
        } else if wants.contains("a list") {
            "write a list: each item on a line of its own after `- `".to_owned()
        } else if wants.contains("a map") {
            "write `key: value` lines below it".to_owned()
        } else {
            format!("write {}", or(wants))
        };
        self.add(wrong(place, format!("wants {}, got {got}", or(wants)), remedy));
    }

    fn out_of_range(&mut self, error: &ValidationError<'_>) {
        let place = error.instance_path().as_str();
        let bound = |name: &str| self.sibling(error, name).map(plain);
        let remedy = match (bound("minimum"), bound("maximum")) {
            (Some(low), Some(high)) => format!("use {low} to {high}"),
            (Some(low), None) => format!("use {low} or more"),
            (None, Some(high)) => format!("use {high} or less"),
            (None, None) => error.to_string(),
        };
        let got = self.got(place);
        self.add(wrong(place, format!("{got} is out of range"), remedy));
    }

    /// The value as it was written, shortened.
    fn got(&self, place: &str) -> String {
        match self.value.pointer(place) {
            None | Some(Value::Null) => "nothing".to_owned(),
            Some(Value::Array(_)) => "a list".to_owned(),
            Some(Value::Object(_)) => "a map".to_owned(),
            Some(Value::String(s)) => format!("{:?}", shortened(s)),
            Some(_) => shortened(&self.raw(place)),
        }
    }

    fn raw(&self, place: &str) -> String {
        pointer::find(self.root, place).map(|n| n.raw.to_string()).unwrap_or_default()
    }

    /// None of several alternatives fits: speak about the one that was most likely meant.
    fn alternatives(&mut self, error: &ValidationError<'_>, branches: &[Vec<ValidationError<'static>>]) {
        let place = error.instance_path().as_str();
        let here = |e: &&ValidationError<'_>| e.instance_path().as_str() == place;
        let all = || branches.iter().flatten();
        let tags: Vec<(&str, Value)> = all()
            .filter(|e| !here(e))
            .flat_map(|e| allowed(e).into_iter().map(|v| (e.instance_path().as_str(), v)))
            .collect();
        let scores: Vec<usize> = branches.iter().map(|b| b.iter().map(|e| weight(e, place)).sum()).collect();
        let best = scores.iter().min().copied().unwrap_or(0);
        let chosen: Vec<_> = branches.iter().zip(&scores).filter(|(_, s)| **s == best).map(|(b, _)| b).collect();
        if let [only] = chosen[..]
            && (best < MISFIT || best < OTHER_TAG && !tags.is_empty())
        {
            return only.iter().for_each(|e| self.explain(e));
        }
        if branches.iter().all(|b| b.iter().any(|e| here(&e) && matches!(e.kind(), Kind::Type { .. }))) {
            let types = all().filter(here).filter_map(type_of).flatten().collect();
            return self.wrong_type(place, &types, None);
        }
        if let Some((tag, _)) = tags.first() {
            let values: Vec<Value> = tags.iter().filter(|(t, _)| t == tag).map(|(_, v)| v.clone()).collect();
            return self.not_one_of(tag, &values, &BTreeSet::new());
        }
        let values: Vec<Value> = all().filter(here).flat_map(allowed).collect();
        let keys: BTreeSet<&str> = all().filter(here).filter_map(required).collect();
        let value = self.value.pointer(place).unwrap_or(&Value::Null);
        if let Some(map) = value.as_object() {
            let spare: BTreeSet<&str> = chosen.iter().flat_map(|b| b.iter()).flat_map(unexpected).collect();
            let keys = if chosen.len() > 1 && best < MISFIT { spare } else { keys };
            return self.wrong_variant(place, map, &keys);
        }
        if !values.is_empty() {
            let forms = self.schema.pointer(error.schema_path().as_str()).and_then(Value::as_array);
            let keys = forms.into_iter().flatten().filter_map(|f| f.get("required")?.get(0)?.as_str()).collect();
            return self.not_one_of(place, &values, &keys);
        }
        // Equally near: the first one is as good as any.
        for e in chosen.first().into_iter().flat_map(|b| b.iter()) {
            self.explain(e);
        }
    }

    /// A map that should hold the name of one variant.
    fn wrong_variant(&mut self, place: &str, map: &serde_json::Map<String, Value>, keys: &BTreeSet<&str>) {
        let all = listed(keys.iter().copied());
        let stranger = map.keys().find(|k| !keys.contains(k.as_str()));
        let (pointer, what, guess) = match stranger {
            Some(k) => (pointer::join(place, k), format!("unknown key {k:?}"), nearest(k, keys.iter().copied())),
            None if map.is_empty() => (place.to_owned(), "an empty map".to_owned(), None),
            None => (place.to_owned(), "several keys where one is wanted".to_owned(), None),
        };
        let remedy =
            guess.map_or_else(|| format!("use one of: {all}"), |g| format!("did you mean {g:?}? Use one of: {all}"));
        self.add(Wrong { pointer, at_key: stranger.is_some(), what, remedy });
    }
}

/// From this weight on an alternative was probably not the one that was meant: it lacks a key that it must have.
const MISFIT: usize = 10;
/// Weight of another tag (`kind: file` where `kind: url` is wanted), above any number of missing keys.
const OTHER_TAG: usize = 1000;

/// How much an error speaks against its alternative: the wrong type most, then another tag, then wrong keys. Errors
/// further down count least, because whoever got that far meant this alternative.
fn weight(error: &ValidationError<'_>, place: &str) -> usize {
    let here = error.instance_path().as_str() == place;
    match error.kind() {
        Kind::Type { .. } if here => 10 * OTHER_TAG,
        Kind::Constant { .. } | Kind::Enum { .. } => OTHER_TAG,
        Kind::Required { .. } if here => MISFIT,
        _ => 1,
    }
}

fn type_of(error: &ValidationError<'_>) -> Option<BTreeSet<&'static str>> {
    match error.kind() {
        Kind::Type { kind } => Some(wanted(kind)),
        _ => None,
    }
}

fn allowed(error: &ValidationError<'_>) -> Vec<Value> {
    match error.kind() {
        Kind::Enum { options } => options.as_array().cloned().unwrap_or_default(),
        Kind::Constant { expected_value } => vec![(**expected_value).clone()],
        _ => Vec::new(),
    }
}

fn required<'e>(error: &'e ValidationError<'_>) -> Option<&'e str> {
    match error.kind() {
        Kind::Required { property } => property.as_str(),
        _ => None,
    }
}

fn unexpected<'e>(error: &'e ValidationError<'_>) -> impl Iterator<Item = &'e str> {
    let keys = match error.kind() {
        Kind::AdditionalProperties { unexpected } => unexpected.as_slice(),
        _ => &[],
    };
    keys.iter().map(String::as_str)
}

fn wanted(kind: &TypeKind) -> BTreeSet<&'static str> {
    let word = |t: JsonType| match t {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Null => "nothing",
        JsonType::Number => "a number",
        JsonType::Object => "a map",
        JsonType::String => "text",
    };
    let mut words: BTreeSet<_> = match kind {
        TypeKind::Single(t) => std::iter::once(word(*t)).collect(),
        TypeKind::Multiple(set) => set.iter().map(word).collect(),
    };
    if words.len() > 1 {
        words.remove("nothing");
    }
    words
}

fn or(words: &BTreeSet<&'static str>) -> String {
    words.iter().filter(|w| words.len() == 1 || **w != "nothing").copied().collect::<Vec<_>>().join(" or ")
}

/// What may stand after the colon of a key that is missing.
fn hint(schema: &Value) -> String {
    if let Some(example) = schema.get("examples").and_then(|e| e.get(0)) {
        return plain(example);
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        return listed(options.iter().map(plain).collect::<Vec<_>>().iter().map(String::as_str)).replace(", ", "|");
    }
    let name = schema.get("type").and_then(|t| t.as_str().or_else(|| t.get(0)?.as_str()));
    match name {
        Some("array") => "[...]",
        Some("boolean") => "true|false",
        Some("integer" | "number") => "<number>",
        Some("object") => "{...}",
        Some("string") => "<text>",
        _ => "<value>",
    }
    .to_owned()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn listed<'a>(words: impl ExactSizeIterator<Item = &'a str>) -> String {
    let total = words.len();
    let mut text = words.take(MAX_LISTED).collect::<Vec<_>>().join(", ");
    if total > MAX_LISTED {
        text.push_str(&format!(" and {} more", total - MAX_LISTED));
    }
    text
}

/// A value from the file, so that one long line does not drown the message.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
