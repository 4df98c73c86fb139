//! JSON as the description of the surface means it (RFC 8259, JSON Schema 2020-12), where serde sees it otherwise: serde takes a list of
//! an object's values for the object, and `{"all": null}` for `"all"`; a key that is there twice is a mistake wherever it is; and 30.0 is
//! as whole a number as 30.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, VariantAccess, Visitor,
        value::{MapDeserializer, SeqDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Map, Value};

/// A value in which no object has a key twice.
#[derive(Debug)]
pub(super) struct Unique(pub(super) Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Whatever;
        impl<'de> Visitor<'de> for Whatever {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut all = Vec::new();
                while let Some(Unique(value)) = list.next_element()? {
                    all.push(value);
                }
                Ok(Value::Array(all))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
                let mut all = Map::new();
                while let Some((key, Unique(value))) = object.next_entry::<String, _>()? {
                    if all.insert(key, value).is_some() {
                        return Err(A::Error::custom("a key is there twice"));
                    }
                }
                Ok(Value::Object(all))
            }
        }
        from.deserialize_any(Whatever).map(Self)
    }
}

/// Reads a value that was read already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strict<'a>(pub(super) &'a Value);

impl<'a> Strict<'a> {
    fn object<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(object) => {
                let entries = object
                    .iter()
                    .map(|(key, value)| (key.as_str(), Strict(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
            _ => Err(Error::invalid_type(
                Unexpected::Other("no object"),
                &visitor,
            )),
        }
    }
}

impl<'a> IntoDeserializer<'a, Error> for Strict<'a> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'a> Deserializer<'a> for Strict<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(_) => self.object(visitor),
            Value::Array(list) => visitor.visit_seq(SeqDeserializer::new(list.iter().map(Strict))),
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                // Exact: a whole number within these bounds is one of theirs.
                Some(whole)
                    if whole.fract() == 0.0
                        && (0.0..18_446_744_073_709_551_616.0).contains(&whole) =>
                {
                    visitor.visit_u64(whole as u64)
                }
                Some(whole)
                    if whole.fract() == 0.0
                        && (-9_223_372_036_854_775_808.0..0.0).contains(&whole) =>
                {
                    visitor.visit_i64(whole as i64)
                }
                _ => number.deserialize_any(visitor),
            },
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.object(visitor)
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        self.object(visitor)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(Variant(name, None)),
            Value::Object(object) if object.len() == 1 => match object.iter().next() {
                Some((name, value)) => visitor.visit_enum(Variant(name, Some(Strict(value)))),
                None => Err(Error::custom("no variant")),
            },
            _ => Err(Error::invalid_type(
                Unexpected::Other("neither a text nor an object of one key"),
                &visitor,
            )),
        }
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        identifier ignored_any
    }
}

/// A variant by its name, and what it has.
struct Variant<'a>(&'a str, Option<Strict<'a>>);

impl<'a> EnumAccess<'a> for Variant<'a> {
    type Error = Error;
    type Variant = Has<'a>;

    fn variant_seed<V: DeserializeSeed<'a>>(self, seed: V) -> Result<(V::Value, Has<'a>), Error> {
        let name: StrDeserializer<'_, Error> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, Has(self.1)))
    }
}

/// What a variant has.
struct Has<'a>(Option<Strict<'a>>);

impl<'a> Has<'a> {
    fn value(self) -> Result<Strict<'a>, Error> {
        self.0
            .ok_or_else(|| Error::custom("the variant has a value"))
    }
}

impl<'a> VariantAccess<'a> for Has<'a> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.0 {
            None => Ok(()),
            Some(_) => Err(Error::custom("the variant has no value")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.value()?)
    }

    fn tuple_variant<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.value()?.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'a>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value()?.object(visitor)
    }
}
