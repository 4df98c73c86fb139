//! AMF0 (Action Message Format 0), as far as RTMP commands and metadata need it.
//!
//! Reading is total and bounded: at most [`MAX_VALUES`] values, nested at most [`MAX_DEPTH`] deep, never more memory than a small
//! multiple of the input.

/// The most values, nested ones included, of one message.
pub const MAX_VALUES: usize = 1_024;

/// The deepest nesting.
pub const MAX_DEPTH: usize = 16;

/// Why bytes are not AMF0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end within a value.
    #[error("an AMF0 value is cut short")]
    Short,
    /// A type marker that is unknown or not used in RTMP.
    #[error("AMF0 type {0:#04x} is not supported")]
    Marker(u8),
    /// Over [`MAX_VALUES`] or [`MAX_DEPTH`].
    #[error("an AMF0 message has too many values")]
    TooMany,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A double.
    Number(f64),
    /// A boolean.
    Boolean(bool),
    /// A string; bytes that are not UTF-8 are replaced.
    String(String),
    /// An object or an ECMA array, in the order of the wire.
    Object(Vec<(String, Value)>),
    /// A strict array.
    Array(Vec<Value>),
    /// Milliseconds since 1970.
    Date(f64),
    /// `null`.
    Null,
    /// `undefined`, or a value of no use (unsupported, a reference).
    Undefined,
}

impl Value {
    /// The property of an object.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Object(properties) => properties
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// Reads values up to the end of the bytes.
///
/// # Errors
/// [`Error`] when they are not AMF0.
pub fn read_all(bytes: &[u8]) -> Result<Vec<Value>, Error> {
    let mut reader = Reader {
        rest: bytes,
        left: MAX_VALUES,
    };
    let mut values = Vec::new();
    while !reader.rest.is_empty() {
        values.push(reader.value(0)?);
    }
    Ok(values)
}

struct Reader<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Error::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Error::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<f64, Error> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, Error> {
        let length = u16::from_be_bytes(self.array()?);
        Ok(String::from_utf8_lossy(self.take(length.into())?).into_owned())
    }

    fn long_text(&mut self) -> Result<String, Error> {
        let length = u32::from_be_bytes(self.array()?);
        let length = usize::try_from(length).map_err(|_| Error::Short)?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        if depth > MAX_DEPTH {
            return Err(Error::TooMany);
        }
        self.left = self.left.checked_sub(1).ok_or(Error::TooMany)?;
        let [marker] = self.array()?;
        Ok(match marker {
            0x00 => Value::Number(self.number()?),
            0x01 => Value::Boolean(self.array::<1>()? != [0]),
            0x02 => Value::String(self.text()?),
            0x03 => Value::Object(self.properties(depth)?),
            0x05 => Value::Null,
            0x06 | 0x0d => Value::Undefined,
            0x07 => {
                self.take(2)?;
                Value::Undefined
            }
            0x08 => {
                // The count is only a hint, and often wrong.
                self.take(4)?;
                Value::Object(self.properties(depth)?)
            }
            0x0a => {
                let count = u32::from_be_bytes(self.array()?);
                // Not reserved for: the count is the peer's word, the bytes are not yet seen.
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(depth + 1)?);
                }
                Value::Array(values)
            }
            0x0b => {
                let date = self.number()?;
                self.take(2)?;
                Value::Date(date)
            }
            0x0c | 0x0f => Value::String(self.long_text()?),
            0x10 => {
                self.text()?;
                Value::Object(self.properties(depth)?)
            }
            other => return Err(Error::Marker(other)),
        })
    }

    fn properties(&mut self, depth: usize) -> Result<Vec<(String, Value)>, Error> {
        let mut properties = Vec::new();
        // Some encoders leave out the end of the last ECMA array of a message.
        while !self.rest.is_empty() {
            if let Some(rest) = self.rest.strip_prefix(&[0, 0, 9]) {
                self.rest = rest;
                break;
            }
            let name = self.text()?;
            properties.push((name, self.value(depth + 1)?));
        }
        Ok(properties)
    }
}

/// Appends a value.
pub fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => {
            out.push(0x00);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Boolean(boolean) => out.extend_from_slice(&[0x01, u8::from(*boolean)]),
        Value::String(text) => match u16::try_from(text.len()) {
            Ok(length) => {
                out.push(0x02);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
            Err(_) => {
                let text = &text.as_bytes()[..text.len().min(u32::MAX as usize)];
                out.push(0x0c);
                out.extend_from_slice(&(text.len() as u32).to_be_bytes());
                out.extend_from_slice(text);
            }
        },
        Value::Object(properties) => {
            out.push(0x03);
            for (name, value) in properties {
                let name = &name.as_bytes()[..name.len().min(usize::from(u16::MAX))];
                out.extend_from_slice(&(name.len() as u16).to_be_bytes());
                out.extend_from_slice(name);
                write(out, value);
            }
            out.extend_from_slice(&[0, 0, 9]);
        }
        Value::Array(values) => {
            out.push(0x0a);
            out.extend_from_slice(&(values.len() as u32).to_be_bytes());
            for value in values {
                write(out, value);
            }
        }
        Value::Date(date) => {
            out.push(0x0b);
            out.extend_from_slice(&date.to_be_bytes());
            out.extend_from_slice(&[0, 0]);
        }
        Value::Null => out.push(0x05),
        Value::Undefined => out.push(0x06),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ecma_array_is_read_by_its_end_and_not_by_its_count() {
        let mut bytes = vec![0x08, 0xff, 0xff, 0xff, 0xff];
        bytes.extend_from_slice(b"\x00\x05width\x00");
        bytes.extend_from_slice(&1280f64.to_be_bytes());
        let without_end = bytes.clone();
        bytes.extend_from_slice(&[0, 0, 9, 0x05]);
        let values = read_all(&bytes).unwrap();
        assert_eq!(values[0].get("width"), Some(&Value::Number(1280.0)));
        assert_eq!(values[1], Value::Null);
        assert_eq!(read_all(&without_end).unwrap(), values[..1]);
    }

    #[test]
    fn nesting_counts_and_lengths_that_lie_are_refused() {
        let deep: Vec<u8> = b"\x03\x00\x01a".repeat(MAX_DEPTH + 2);
        assert_eq!(read_all(&deep), Err(Error::TooMany));
        assert_eq!(read_all(&[0x05; MAX_VALUES + 1]), Err(Error::TooMany));
        assert_eq!(
            read_all(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x05]),
            Err(Error::Short)
        );
        assert_eq!(
            read_all(&[0x0c, 0xff, 0xff, 0xff, 0xff, 0x05]),
            Err(Error::Short)
        );
        assert_eq!(read_all(&[0x02, 0, 9, b'a']), Err(Error::Short));
        assert_eq!(read_all(&[0x11, 0x0a]), Err(Error::Marker(0x11)));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            proptest::num::f64::NORMAL.prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,40}".prop_map(Value::String),
            Just(Value::String("x".repeat(70_000))),
            Just(Value::Null),
            Just(Value::Undefined),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
                proptest::collection::vec(("[a-z]{1,8}", inner), 0..8).prop_map(Value::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in any_value()) {
            let mut bytes = Vec::new();
            write(&mut bytes, &value);
            prop_assert_eq!(read_all(&bytes).unwrap(), vec![value]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&bytes);
        }
    }
}
