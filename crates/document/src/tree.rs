//! From YAML to a tree whose nodes know their places. YAML 1.2, core schema, without what makes a file hard to read.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use crate::MAX_DEPTH;
use crate::mistake::Mistake;
use crate::pointer;

/// A place in the text, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) data: Data,
    /// The scalar as it was written.
    pub(crate) raw: Box<str>,
}

/// What a node holds.
#[derive(Debug)]
pub(crate) enum Data {
    Bool(bool),
    List(Vec<Node>),
    Map(Vec<Entry>),
    Null,
    Number(Number),
    Text,
}

/// A key with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: At,
    pub(crate) value: Node,
}

impl Node {
    /// The same as JSON. Of a key that is given twice, the first counts.
    pub(crate) fn to_json(&self) -> Value {
        match &self.data {
            Data::Bool(b) => Value::Bool(*b),
            Data::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Data::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect::<Map<_, _>>())
            }
            Data::Null => Value::Null,
            Data::Number(n) => Value::Number(n.clone()),
            Data::Text => Value::String(self.raw.to_string()),
        }
    }
}

/// What reading the YAML gave.
pub(crate) struct Built {
    /// Absent when there is nothing to go on with.
    pub(crate) root: Option<Node>,
    pub(crate) mistakes: Vec<Mistake>,
    /// Places (JSON pointers) that a mistake was already said about and that hold no true value.
    pub(crate) poisoned: Vec<String>,
}

/// Reads the first document of a text.
pub(crate) fn build(text: &str) -> Built {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => {
                if !builder.on(event, span) {
                    break;
                }
            }
            Err(e) => {
                let at = At { line: e.marker().line().max(1), column: e.marker().col() + 1 };
                let remedy =
                    if text.lines().nth(at.line - 1).is_some_and(|l| l.trim_start_matches(' ').starts_with('\t')) {
                        "indent with spaces, YAML allows no tabs there"
                    } else {
                        "mend this first; nothing after it could be read"
                    };
                builder.say(at, format!("not YAML: {}", e.info()), remedy);
                builder.root = None;
                return builder.finish();
            }
        }
    }
    let nothing = builder.root.as_ref().is_none_or(|r| matches!(r.data, Data::Null) && r.raw.is_empty());
    if nothing && builder.mistakes.is_empty() {
        builder.root = None;
        let at = At { line: 1, column: 1 };
        builder.say(at, "the document is empty".to_owned(), "write at least {} to take every default");
    }
    builder.finish()
}

/// A list or map whose end has not come yet.
struct Open {
    at: At,
    holds: Holds,
    /// It stands where a key was wanted, and is thrown away.
    is_key: bool,
}

enum Holds {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, seen: HashMap<String, At>, key: Option<(String, At, Fate)> },
}

/// What happens to the value of a key.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Keep,
    Drop,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    mistakes: Vec<Mistake>,
    poisoned: Vec<String>,
}

impl Builder {
    fn finish(self) -> Built {
        Built { root: self.root, mistakes: self.mistakes, poisoned: self.poisoned }
    }

    /// Takes one event; false ends the reading.
    fn on(&mut self, event: Event<'_>, span: Span) -> bool {
        let at = At { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.say(
                        at,
                        "a second document starts here".to_owned(),
                        "one file holds one document; split the file",
                    );
                    return false;
                }
            }
            Event::Alias(_) => {
                self.say(at, "an alias (*name) is not supported".to_owned(), "write the value out");
                self.alias(at);
            }
            Event::Scalar(raw, style, anchor, tag) => {
                self.no_extras(at, anchor, tag.is_some());
                let node = self.scalar(at, raw.into(), style);
                self.put(node);
            }
            Event::SequenceStart(anchor, tag) => {
                self.no_extras(at, anchor, tag.is_some());
                return self.enter(at, Holds::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.no_extras(at, anchor, tag.is_some());
                return self.enter(at, Holds::Map { entries: Vec::new(), seen: HashMap::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => self.leave(),
        }
        true
    }

    fn enter(&mut self, at: At, holds: Holds) -> bool {
        if self.open.len() >= MAX_DEPTH {
            self.say(at, format!("nested deeper than {MAX_DEPTH} levels"), "flatten the document");
            return false;
        }
        let is_key = self.wants_key();
        if is_key {
            self.say(at, "a key must be plain text".to_owned(), "write the key as one word or a quoted text");
        }
        self.open.push(Open { at, holds, is_key });
        true
    }

    fn leave(&mut self) {
        let Some(done) = self.open.pop() else { return };
        if done.is_key {
            if let Some(Open { holds: Holds::Map { key, .. }, .. }) = self.open.last_mut() {
                *key = Some((String::new(), done.at, Fate::Drop));
            }
            return;
        }
        let data = match done.holds {
            Holds::List(items) => Data::List(items),
            Holds::Map { entries, .. } => Data::Map(entries),
        };
        self.put(Node { at: done.at, data, raw: "".into() });
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { holds: Holds::Map { key: None, .. }, .. }))
    }

    /// Puts a finished node where it belongs: a key, a value, an item or the root.
    fn put(&mut self, node: Node) {
        let is_key = self.wants_key();
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { holds: Holds::List(items), .. }) => items.push(node),
            Some(Open { holds: Holds::Map { entries, key, .. }, .. }) if !is_key => {
                if let Some((name, at, Fate::Keep)) = key.take() {
                    entries.push(Entry { key: name, at, value: node });
                }
            }
            Some(_) => self.key(&node),
        }
    }

    fn key(&mut self, node: &Node) {
        let name = node.raw.to_string();
        if name == "<<" {
            self.say(node.at, "merge keys (<<) are not supported".to_owned(), "write the keys out");
        }
        let Some(Open { holds: Holds::Map { seen, key, .. }, .. }) = self.open.last_mut() else { return };
        let first = seen.get(&name).copied();
        let fate = if first.is_some() || name == "<<" { Fate::Drop } else { Fate::Keep };
        *key = Some((name.clone(), node.at, fate));
        seen.entry(name.clone()).or_insert(node.at);
        if let Some(first) = first {
            let what = format!("{name:?} is given twice, first on line {}", first.line);
            self.say(node.at, what, "keep one of them");
        }
    }

    fn scalar(&mut self, at: At, raw: String, style: ScalarStyle) -> Node {
        let data = if style == ScalarStyle::Plain { resolve(&raw) } else { Ok(Data::Text) };
        let data = data.unwrap_or_else(|what| {
            if !self.wants_key() {
                self.say(at, format!("{raw} is {what}"), "quote it if a text is meant");
                self.poison();
            }
            Data::Null
        });
        Node { at, data, raw: raw.into() }
    }

    fn no_extras(&mut self, at: At, anchor: usize, tagged: bool) {
        if anchor > 0 {
            self.say(at, "anchors (&name) are not supported".to_owned(), "write the value out where it is needed");
        }
        if tagged {
            self.say(
                at,
                "tags (!name) are not supported".to_owned(),
                "leave the tag out; quote the value if a text is meant",
            );
            self.poison();
        }
    }

    /// Keeps the shape of the tree where an alias stands.
    fn alias(&mut self, at: At) {
        if let Some(Open { holds: Holds::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
            *key = Some((String::new(), at, Fate::Drop));
        } else {
            self.poison();
            self.put(Node { at, data: Data::Null, raw: "".into() });
        }
    }

    fn poison(&mut self) {
        let (pointer, _) = self.path();
        self.poisoned.push(pointer);
    }

    /// JSON pointer and readable field of the value that is being read.
    fn path(&self) -> (String, String) {
        let (mut json, mut field) = (String::new(), String::new());
        for open in &self.open {
            match &open.holds {
                Holds::List(items) => {
                    json = pointer::join(&json, &items.len().to_string());
                    field.push_str(&format!("[{}]", items.len()));
                }
                Holds::Map { key: Some((name, ..)), .. } => {
                    json = pointer::join(&json, name);
                    pointer::push_key(&mut field, name);
                }
                Holds::Map { .. } => {}
            }
        }
        (json, field)
    }

    fn say(&mut self, at: At, what: String, remedy: &str) {
        let (_, field) = self.path();
        self.mistakes.push(Mistake {
            file: String::new(),
            line: at.line,
            column: at.column,
            field,
            what,
            remedy: remedy.to_owned(),
        });
    }
}

/// The value of a plain scalar by the core schema (YAML 1.2.2, 10.3.2), or what keeps it from being one.
fn resolve(raw: &str) -> Result<Data, &'static str> {
    match raw {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Data::Null),
        "true" | "True" | "TRUE" => return Ok(Data::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Data::Bool(false)),
        _ => {}
    }
    let unsigned = raw.strip_prefix(['+', '-']).unwrap_or(raw);
    if matches!(raw.trim_start_matches(['+', '-']), ".inf" | ".Inf" | ".INF") || matches!(raw, ".nan" | ".NaN" | ".NAN")
    {
        return Err("not a finite number");
    }
    let too_large = "a number too large for 64 bits";
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = raw.strip_prefix(prefix).filter(|d| !d.is_empty() && d.chars().all(|c| c.is_digit(radix)))
        {
            return u64::from_str_radix(digits, radix).map(|n| Data::Number(n.into())).map_err(|_| too_large);
        }
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let plus = raw.strip_prefix('+').unwrap_or(raw);
        let whole = plus.parse::<u64>().map(Number::from).or_else(|_| plus.parse::<i64>().map(Number::from));
        return whole.map(Data::Number).map_err(|_| too_large);
    }
    if is_float(unsigned)
        && let Some(n) = raw.parse::<f64>().ok().and_then(Number::from_f64)
    {
        return Ok(Data::Number(n));
    }
    Ok(Data::Text)
}

/// `(\. [0-9]+ | [0-9]+ (\. [0-9]*)?) ([eE] [-+]? [0-9]+)?`
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent_ok
}
