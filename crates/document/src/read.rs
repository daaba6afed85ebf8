//! Deserialisation that knows where it is and does not stop at the first mistake.
//!
//! A derived `Deserialize` gives up at its first error, so the reader notes the place, leaves that value out and begins
//! again, until nothing new is found. A field that is missing only because it was left out is not reported.

use std::collections::HashSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use crate::mistake::Wrong;
use crate::pointer;

/// Rounds at most, and so mistakes of this kind at most: each round reads the whole document once more.
const MAX_ROUNDS: usize = 100;

/// Reads a value, or says what keeps it from being one.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> (Option<T>, Vec<Wrong>) {
    let mut left_out = HashSet::new();
    let mut wrongs = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let fault = match T::deserialize(Reader { value, path: Path::Root, left_out: &left_out }) {
            Ok(made) => return (wrongs.is_empty().then_some(made), wrongs),
            Err(fault) => fault,
        };
        let pointer = fault.pointer.unwrap_or_default();
        let follows = fault.missing && left_out.iter().any(|p| pointer::covers(&pointer, p));
        if !follows {
            let (what, remedy) = split(&fault.message);
            wrongs.push(Wrong { pointer: pointer.clone(), at_key: fault.at_key, what, remedy });
        }
        if pointer.is_empty() || !left_out.insert(pointer) {
            break;
        }
    }
    (None, wrongs)
}

/// Messages of our text types hold the remedy after a semicolon; some of the standard library's have one here.
fn split(message: &str) -> (String, String) {
    if let Some((what, remedy)) = message.split_once("; ") {
        return (what.to_owned(), remedy.to_owned());
    }
    let remedy = match message {
        m if m.contains("invalid socket address") => "write address:port, such as 10.0.0.1:80 or [fd00::1]:80",
        m if m.contains("invalid IP address") => "write an address such as 10.0.0.1 or fd00::1",
        m if m.contains("invalid IPv4") => "write an address such as 10.0.0.1",
        m if m.contains("invalid IPv6") => "write an address such as fd00::1",
        _ => "write a value of the form that the field wants",
    };
    (message.to_owned(), remedy.to_owned())
}

#[derive(Debug)]
struct Fault {
    message: String,
    missing: bool,
    at_key: bool,
    pointer: Option<String>,
}

impl Fault {
    fn at(mut self, path: &Path<'_>) -> Self {
        self.pointer.get_or_insert_with(|| path.pointer());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Self { message: message.to_string(), missing: false, at_key: false, pointer: None }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: true, ..Self::custom(format_args!("{field} is missing; add it")) }
    }
}

#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn pointer(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Key(above, key) => pointer::join(&above.pointer(), key),
            Self::Index(above, i) => pointer::join(&above.pointer(), &i.to_string()),
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    value: &'a Value,
    path: Path<'a>,
    left_out: &'a HashSet<String>,
}

impl Reader<'_> {
    fn is_left_out(&self, path: &Path<'_>) -> bool {
        !self.left_out.is_empty() && self.left_out.contains(&path.pointer())
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let here = self.path;
        let made = match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), ..) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                (.., n) => visitor.visit_f64(n.unwrap_or(f64::NAN)),
            },
            Value::String(s) => visitor.visit_str(s),
            Value::Array(items) => visitor.visit_seq(Items { of: self, rest: items.iter().enumerate() }),
            Value::Object(map) => visitor.visit_map(Entries { of: self, rest: map.iter(), current: None }),
        };
        made.map_err(|f: Fault| f.at(&here))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let here = self.path;
        let made = if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) };
        made.map_err(|f: Fault| f.at(&here))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let here = self.path;
        visitor.visit_newtype_struct(self).map_err(|f: Fault| f.at(&here))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let here = self.path;
        let made = match self.value {
            Value::String(s) => visitor.visit_enum(s.as_str().into_deserializer()),
            Value::Object(map) => match map.iter().next() {
                Some((key, value)) if map.len() == 1 => visitor.visit_enum(Variant { of: self, key, value }),
                _ => Err(de::Error::custom("wants exactly one key here; keep one of them")),
            },
            _ => Err(de::Error::custom("wants the name of a variant, or a map of one key; write one")),
        };
        made.map_err(|f: Fault| f.at(&here))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    of: Reader<'a>,
    rest: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        for (i, value) in self.rest.by_ref() {
            let path = Path::Index(&self.of.path, i);
            if !self.of.is_left_out(&path) {
                let made = seed.deserialize(Reader { value, path, left_out: self.of.left_out });
                return made.map(Some).map_err(|f| f.at(&path));
            }
        }
        Ok(None)
    }
}

struct Entries<'a> {
    of: Reader<'a>,
    rest: serde_json::map::Iter<'a>,
    current: Option<(&'a str, &'a Value)>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        for (key, value) in self.rest.by_ref() {
            let path = Path::Key(&self.of.path, key);
            if !self.of.is_left_out(&path) {
                self.current = Some((key, value));
                let made = seed.deserialize(Key(key));
                return made.map(Some).map_err(|f| Fault { at_key: true, ..f.at(&path) });
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some((key, value)) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = Path::Key(&self.of.path, key);
        seed.deserialize(Reader { value, path, left_out: self.of.left_out }).map_err(|f| f.at(&path))
    }
}

/// A key: a text that may stand for a number or a truth value.
struct Key<'a>(&'a str);

macro_rules! parsed_keys {
    ($($method:ident => $visit:ident: $type:ty,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.0.parse::<$type>() {
                Ok(made) => visitor.$visit(made),
                Err(_) => visitor.visit_str(self.0),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let name: StrDeserializer<'_, Fault> = self.0.into_deserializer();
        visitor.visit_enum(name)
    }

    parsed_keys! {
        deserialize_bool => visit_bool: bool,
        deserialize_i8 => visit_i64: i64,
        deserialize_i16 => visit_i64: i64,
        deserialize_i32 => visit_i64: i64,
        deserialize_i64 => visit_i64: i64,
        deserialize_u8 => visit_u64: u64,
        deserialize_u16 => visit_u64: u64,
        deserialize_u32 => visit_u64: u64,
        deserialize_u64 => visit_u64: u64,
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

/// `{name: content}`, an enum's variant with content.
struct Variant<'a> {
    of: Reader<'a>,
    key: &'a str,
    value: &'a Value,
}

impl<'a> Variant<'a> {
    fn inside<R>(&self, run: impl FnOnce(Reader<'_>) -> Result<R, Fault>) -> Result<R, Fault> {
        let path = Path::Key(&self.of.path, self.key);
        run(Reader { value: self.value, path, left_out: self.of.left_out }).map_err(|f| f.at(&path))
    }
}

impl<'de, 'a> de::EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        Ok((seed.deserialize(Key(self.key))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        self.inside(|r| <() as de::Deserialize>::deserialize(r))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        self.inside(|r| seed.deserialize(r))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.inside(|r| r.deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.inside(|r| r.deserialize_any(visitor))
    }
}
