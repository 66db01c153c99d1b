//! Values of metadata and their types.

use std::fmt;
use std::io::BufRead;

use super::array::Array;
use super::error::GgufFault;
use super::source::Source;
use crate::shown::shown;

/// Type of a value, as the file numbers it from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// `u8`
    U8,
    /// `i8`
    I8,
    /// `u16`
    U16,
    /// `i16`
    I16,
    /// `u32`
    U32,
    /// `i32`
    I32,
    /// `f32`
    F32,
    /// `bool`, one byte, 0 or 1
    Bool,
    /// A string in UTF-8
    Str,
    /// An array of one type
    Array,
    /// `u64`
    U64,
    /// `i64`
    I64,
    /// `f64`
    F64,
}

impl ValueType {
    /// Name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// Bytes of one value, 0 where it has no fixed size.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Str | Self::Array => 0,
        }
    }

    pub(super) fn read<R: BufRead>(source: &mut Source<R>, key: &str) -> Result<Self, GgufFault> {
        let id = source.u32("the type of a value")?;
        Ok(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::Str,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return Err(GgufFault::UnknownValueType { key: shown(key), id }),
        })
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value of metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `u8`
    U8(u8),
    /// `i8`
    I8(i8),
    /// `u16`
    U16(u16),
    /// `i16`
    I16(i16),
    /// `u32`
    U32(u32),
    /// `i32`
    I32(i32),
    /// `f32`
    F32(f32),
    /// `bool`
    Bool(bool),
    /// A string
    Str(String),
    /// An array
    Array(Array),
    /// `u64`
    U64(u64),
    /// `i64`
    I64(i64),
    /// `f64`
    F64(f64),
}

impl Value {
    /// Its type.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// What it is, for messages: `u32`, `array of string`.
    pub(super) fn description(&self) -> String {
        match self {
            Self::Array(array) => format!("array of {}", array.element_type()),
            other => other.value_type().name().to_owned(),
        }
    }

    pub(super) fn read<R: BufRead>(source: &mut Source<R>, key: &str) -> Result<Self, GgufFault> {
        let what = format!("the value of '{}'", shown(key));
        Ok(match ValueType::read(source, key)? {
            ValueType::U8 => Self::U8(u8::from_le_bytes(source.array(&what)?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(source.array(&what)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(source.array(&what)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(source.array(&what)?)),
            ValueType::U32 => Self::U32(source.u32(&what)?),
            ValueType::I32 => Self::I32(i32::from_le_bytes(source.array(&what)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(source.array(&what)?)),
            ValueType::Bool => match source.array(&what)? {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                _ => return Err(GgufFault::NotABool { key: shown(key) }),
            },
            ValueType::Str => Self::Str(source.string(&what, u64::MAX)?),
            ValueType::Array => Self::Array(Array::read(source, key)?),
            ValueType::U64 => Self::U64(source.u64(&what)?),
            ValueType::I64 => Self::I64(i64::from_le_bytes(source.array(&what)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(source.array(&what)?)),
        })
    }
}
