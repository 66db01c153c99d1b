//! Values of metadata by key and type. `get_` errs where the key is missing, `find_` gives `None`; both err where the value is
//! of another type, since llama.cpp converts none either.

use super::array::{Array, StrArray};
use super::error::{GgufError, GgufFault};
use super::file::GgufFile;
use super::value::{Value, ValueType};
use crate::shown::shown;

macro_rules! scalars {
    ($($get:ident, $find:ident, $variant:ident => $ty:ty, $name:literal;)*) => {
        /// Scalars.
        impl GgufFile {
            $(
                #[doc = concat!("The ", $name, " of a key.")]
                ///
                /// # Errors
                ///
                /// [`GgufFault::MissingKey`], [`GgufFault::WrongType`].
                pub fn $get(&self, key: &str) -> Result<$ty, GgufError> {
                    self.required(key, self.$find(key)?)
                }

                #[doc = concat!("The ", $name, " of a key, if it is there.")]
                ///
                /// # Errors
                ///
                /// [`GgufFault::WrongType`].
                pub fn $find(&self, key: &str) -> Result<Option<$ty>, GgufError> {
                    match self.value(key) {
                        None => Ok(None),
                        Some(&Value::$variant(value)) => Ok(Some(value)),
                        Some(other) => Err(self.wrong_type(key, other, $name)),
                    }
                }
            )*
        }
    };
}

scalars! {
    get_u32, find_u32, U32 => u32, "u32";
    get_u64, find_u64, U64 => u64, "u64";
    get_u16, find_u16, U16 => u16, "u16";
    get_f32, find_f32, F32 => f32, "f32";
    get_bool, find_bool, Bool => bool, "bool";
}

/// Strings and arrays.
impl GgufFile {
    /// The string of a key.
    ///
    /// # Errors
    ///
    /// [`GgufFault::MissingKey`], [`GgufFault::WrongType`].
    pub fn get_str(&self, key: &str) -> Result<&str, GgufError> {
        self.required(key, self.find_str(key)?)
    }

    /// The string of a key, if it is there.
    ///
    /// # Errors
    ///
    /// [`GgufFault::WrongType`].
    pub fn find_str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(key, other, "string")),
        }
    }

    /// The array of a key, of whatever elements.
    ///
    /// # Errors
    ///
    /// [`GgufFault::MissingKey`], [`GgufFault::WrongType`].
    pub fn get_array(&self, key: &str) -> Result<&Array, GgufError> {
        self.required(key, self.find_array(key)?)
    }

    /// The array of a key, of whatever elements, if it is there.
    ///
    /// # Errors
    ///
    /// [`GgufFault::WrongType`].
    pub fn find_array(&self, key: &str) -> Result<Option<&Array>, GgufError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(self.wrong_type(key, other, "array")),
        }
    }

    /// The strings of a key.
    ///
    /// # Errors
    ///
    /// [`GgufFault::MissingKey`], [`GgufFault::WrongType`].
    pub fn get_str_array(&self, key: &str) -> Result<&StrArray, GgufError> {
        match self.required(key, self.value(key))? {
            Value::Array(Array::Strings(strings)) => Ok(strings),
            other => Err(self.wrong_type(key, other, "array of string")),
        }
    }

    /// The floats of a key, if it is there.
    ///
    /// # Errors
    ///
    /// [`GgufFault::WrongType`].
    pub fn find_f32_array(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let floats = elements(value, ValueType::F32).map(|all| all.map(f32::from_le_bytes).collect());
        floats.map(Some).ok_or_else(|| self.wrong_type(key, value, "array of f32"))
    }

    /// The integers of a key, if it is there.
    ///
    /// # Errors
    ///
    /// [`GgufFault::WrongType`].
    pub fn find_i32_array(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let integers = elements(value, ValueType::I32).map(|all| all.map(i32::from_le_bytes).collect());
        integers.map(Some).ok_or_else(|| self.wrong_type(key, value, "array of i32"))
    }

    /// The counts of a key, if it is there: `u32`, or `i32` of which none is negative, as conversions write them.
    ///
    /// # Errors
    ///
    /// [`GgufFault::WrongType`], [`GgufFault::BadValue`].
    pub fn find_u32_array(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        if let Some(all) = elements(value, ValueType::U32) {
            return Ok(Some(all.map(u32::from_le_bytes).collect()));
        }
        let signed = elements(value, ValueType::I32);
        let signed = signed.ok_or_else(|| self.wrong_type(key, value, "array of u32"))?;
        let count = |bytes| {
            let got = i32::from_le_bytes(bytes);
            u32::try_from(got).map_err(|_| self.bad_value(key, got, "not negative"))
        };
        signed.map(count).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| self.error(GgufFault::MissingKey { key: shown(key) }))
    }

    pub(super) fn wrong_type(&self, key: &str, got: &Value, expected: &'static str) -> GgufError {
        self.error(GgufFault::WrongType { key: shown(key), got: got.description(), expected })
    }

    pub(super) fn bad_value(
        &self,
        key: &str,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> GgufError {
        self.error(GgufFault::BadValue {
            key: shown(key),
            value: shown(&value.to_string()),
            expected: expected.into(),
        })
    }
}

fn elements(value: &Value, ty: ValueType) -> Option<impl Iterator<Item = [u8; 4]> + '_> {
    match value {
        Value::Array(array) => array.elements::<4>(ty),
        _ => None,
    }
}
