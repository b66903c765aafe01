//! Settings that are a number or one of a few words: how they are read, written and described.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::settings::{Base, Rotations, Threshold};

/// A setting that is a number or one of a few words.
trait WordOrNumber: Copy {
    const WORDS: &'static [&'static str];
    /// Lowest and highest number.
    const RANGE: [f64; 2];
    fn of_number(v: f64) -> Self;
    fn of_word(word: &str) -> Option<Self>;
    /// The number, or else the word.
    fn number(self) -> Result<f64, &'static str>;
}

impl WordOrNumber for Threshold {
    const WORDS: &'static [&'static str] = &["auto"];
    const RANGE: [f64; 2] = [0.0, 1.0];
    fn of_number(v: f64) -> Self {
        Self::At(v)
    }
    fn of_word(word: &str) -> Option<Self> {
        (word == "auto").then_some(Self::Auto)
    }
    fn number(self) -> Result<f64, &'static str> {
        match self {
            Self::At(v) => Ok(v),
            Self::Auto => Err("auto"),
        }
    }
}

impl WordOrNumber for Base {
    const WORDS: &'static [&'static str] = &["auto"];
    const RANGE: [f64; 2] = [0.05, 20.0];
    fn of_number(v: f64) -> Self {
        Self::At(v)
    }
    fn of_word(word: &str) -> Option<Self> {
        (word == "auto").then_some(Self::Auto)
    }
    fn number(self) -> Result<f64, &'static str> {
        match self {
            Self::At(v) => Ok(v),
            Self::Auto => Err("auto"),
        }
    }
}

impl WordOrNumber for Rotations {
    const WORDS: &'static [&'static str] = &["none", "any"];
    const RANGE: [f64; 2] = [1.0, 180.0];
    fn of_number(v: f64) -> Self {
        Self::Every(v)
    }
    fn of_word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "any" => Some(Self::Any),
            _ => None,
        }
    }
    fn number(self) -> Result<f64, &'static str> {
        match self {
            Self::Every(v) => Ok(v),
            Self::None => Err("none"),
            Self::Any => Err("any"),
        }
    }
}

/// Reads a [`WordOrNumber`].
struct Reader<T>(PhantomData<T>);

impl<T: WordOrNumber> Visitor<'_> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for w in T::WORDS {
            write!(f, "`{w}`, ")?;
        }
        write!(f, "or a number from {} to {}", T::RANGE[0], T::RANGE[1])
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
        T::of_word(v).ok_or_else(|| E::invalid_value(de::Unexpected::Str(v), &self))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<T, E> {
        if (T::RANGE[0]..=T::RANGE[1]).contains(&v) {
            Ok(T::of_number(v))
        } else {
            Err(E::invalid_value(de::Unexpected::Float(v), &self))
        }
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<T, E> {
        self.visit_f64(v as f64)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<T, E> {
        self.visit_f64(v as f64)
    }
}

/// The foreign traits of a [`WordOrNumber`], which cannot be implemented for all of them at once.
macro_rules! serde_and_schema {
    ($($kind:ident),*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(Reader(PhantomData))
            }
        }

        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                match self.number() {
                    Ok(v) => s.serialize_f64(v),
                    Err(word) => s.serialize_str(word),
                }
            }
        }

        impl JsonSchema for $kind {
            fn schema_name() -> Cow<'static, str> {
                stringify!($kind).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let [low, high] = Self::RANGE;
                json_schema!({
                    "anyOf": [{ "enum": Self::WORDS }, { "type": "number", "minimum": low, "maximum": high }]
                })
            }
        }
    )*};
}

serde_and_schema!(Threshold, Base, Rotations);
