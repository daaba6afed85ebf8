//! Values that people write with their unit: durations, sizes, blocks of addresses.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not such a value. Prints what is wrong and, after a semicolon, the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct TextError {
    what: String,
    remedy: String,
}

fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> TextError {
    TextError { what: what.into(), remedy: remedy.into() }
}

/// A duration, as in `250ms`, `5s`, `2m`, `1h` or `1h30m`. The unit is never left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Units of a [`Span`], largest first, in milliseconds.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SPAN_REMEDY: &str = "write a number and a unit (ms, s, m, h), such as 250ms or 5s";

impl Span {
    /// A span of seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// A span of milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let fail = || wrong(format!("{text:?} is not a duration"), SPAN_REMEDY);
        let mut rest = text;
        let mut millis = 0u64;
        // Units must descend, so that none comes twice.
        let mut units = &TIME_UNITS[..];
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, behind) = rest.split_at(digits);
            let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, behind) = behind.split_at(letters);
            let place = units.iter().position(|(name, _)| *name == unit).filter(|_| digits > 0).ok_or_else(fail)?;
            let long = || wrong(format!("{text:?} is too long"), "use a shorter duration");
            let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(units[place].1)).ok_or_else(long)?;
            millis = millis.checked_add(part).ok_or_else(long)?;
            units = &units[place + 1..];
            rest = behind;
        }
        if text.is_empty() { Err(fail()) } else { Ok(Self::from_millis(millis)) }
    }
}

impl fmt::Display for Span {
    /// In the largest unit that leaves no remainder; parts below a millisecond are cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        let fits = TIME_UNITS.iter().find(|(_, size)| millis.is_multiple_of(u128::from(*size)));
        let (name, size) = fits.copied().unwrap_or(("ms", 1));
        write!(f, "{}{name}", millis / u128::from(size))
    }
}

/// A number of bytes, as in `512B`, `64KiB`, `2MiB` or `1GiB`. The unit is never left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SIZE_REMEDY: &str = "write a number and a unit (B, KiB, MiB, GiB), such as 64KiB or 2MiB";

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a `usize`, the largest one when it does not fit.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let found = SIZE_UNITS.iter().find(|(name, _)| *name == unit).filter(|_| digits > 0);
        let Some((_, size)) = found else {
            return Err(wrong(format!("{text:?} is not a size"), SIZE_REMEDY));
        };
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*size));
        bytes.map(Self).ok_or_else(|| wrong(format!("{text:?} is too large"), "use a smaller size"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = SIZE_UNITS.iter().find(|(_, size)| self.0 != 0 && self.0.is_multiple_of(*size));
        let (name, size) = fits.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / size)
    }
}

/// A block of addresses, as in `10.0.0.0/8` or `fd00::/64`; an address alone is a block of one. Bits beyond the prefix
/// are a mistake, because one of the two numbers is then not what its writer meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CidrText {
    addr: IpAddr,
    len: u8,
}

impl CidrText {
    /// The first address of the block.
    pub const fn addr(self) -> IpAddr {
        self.addr
    }

    /// Bits of the prefix.
    pub const fn prefix_len(self) -> u8 {
        self.len
    }
}

impl FromStr for CidrText {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let fail = || wrong(format!("{text:?} is not a block of addresses"), "write it as 10.0.0.0/8 or fd00::/64");
        let (ip, len) = text.split_once('/').map_or((text, None), |(ip, len)| (ip, Some(len)));
        let addr: IpAddr = ip.parse().map_err(|_| fail())?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let len: u8 = len.map_or(Ok(bits), str::parse).map_err(|_| fail())?;
        if len > bits {
            return Err(wrong(format!("{text:?} has a prefix of more than {bits} bits"), format!("use 0 to {bits}")));
        }
        let first = match addr {
            IpAddr::V4(a) => {
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)))
            }
            IpAddr::V6(a) => {
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)))
            }
        };
        if first != addr {
            let what = format!("{text:?} has bits beyond its prefix");
            return Err(wrong(what, format!("write {first}/{len}, or {addr} for the one address")));
        }
        Ok(Self { addr, len })
    }
}

impl fmt::Display for CidrText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

macro_rules! as_text {
    ($type:ident, $what:literal, $examples:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                // No pattern: parsing has the better message.
                json_schema!({ "type": "string", "description": $what, "examples": $examples })
            }
        }
    };
}

as_text!(Span, "A duration with its unit.", ["250ms", "5s", "1h"]);
as_text!(Size, "A number of bytes with its unit.", ["64KiB", "2MiB"]);
as_text!(CidrText, "A block of addresses.", ["10.0.0.0/8", "fd00::/64"]);

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
