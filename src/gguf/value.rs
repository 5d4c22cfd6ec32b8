//! Metadata values and their bytes. Everything is little-endian.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::cursor::Cursor;
use super::{MAX_LEN, text};

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// One metadata value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array. Arrays do not nest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Runs `$body` with `$v` bound to the number or bool inside, `$string` for strings and `$array` for arrays.
macro_rules! match_value {
    ($value:expr, $v:ident => $body:expr, $s:ident => $string:expr, $a:ident => $array:expr) => {
        match $value {
            Value::U8($v) => $body,
            Value::I8($v) => $body,
            Value::U16($v) => $body,
            Value::I16($v) => $body,
            Value::U32($v) => $body,
            Value::I32($v) => $body,
            Value::F32($v) => $body,
            Value::Bool($v) => $body,
            Value::U64($v) => $body,
            Value::I64($v) => $body,
            Value::F64($v) => $body,
            Value::String($s) => $string,
            Value::Array($a) => $array,
        }
    };
}

/// Runs `$body` with `$v` bound to the vector of numbers or bools inside, `$string` for a vector of strings.
macro_rules! match_array {
    ($array:expr, $v:ident => $body:expr, $s:ident => $string:expr) => {
        match $array {
            Array::U8($v) => $body,
            Array::I8($v) => $body,
            Array::U16($v) => $body,
            Array::I16($v) => $body,
            Array::U32($v) => $body,
            Array::I32($v) => $body,
            Array::F32($v) => $body,
            Array::Bool($v) => $body,
            Array::U64($v) => $body,
            Array::I64($v) => $body,
            Array::F64($v) => $body,
            Array::String($s) => $string,
        }
    };
}

/// A value of fixed size.
pub(super) trait Scalar: Sized {
    const SIZE: usize;
    fn put(&self, out: &mut Vec<u8>);
    fn get(cursor: &mut Cursor) -> Result<Self>;
}

macro_rules! scalar {
    ($($ty:ty),*) => {$(
        impl Scalar for $ty {
            const SIZE: usize = size_of::<$ty>();
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(cursor: &mut Cursor) -> Result<Self> {
                Ok(<$ty>::from_le_bytes(cursor.array()?))
            }
        }
    )*};
}
scalar!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);

impl Scalar for bool {
    const SIZE: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(cursor: &mut Cursor) -> Result<Self> {
        Ok(u8::get(cursor)? != 0)
    }
}

fn size_of_scalar<T: Scalar>(_: &T) -> u64 {
    T::SIZE as u64
}

fn size_of_items<T: Scalar>(items: &[T]) -> u64 {
    items.len() as u64 * T::SIZE as u64
}

/// Appends the name of a key or tensor: its length in bytes, then the bytes.
pub(super) fn put_string(text: &str, out: &mut Vec<u8>) {
    (text.len() as u64).put(out);
    out.extend_from_slice(text.as_bytes());
}

/// Bytes of [`put_string`].
pub(super) fn string_size(text: &str) -> u64 {
    8 + text.len() as u64
}

/// Reads the name of a key or tensor. Fails on a length past the end, or bytes that are not UTF-8.
pub(super) fn get_string(cursor: &mut Cursor) -> Result<String> {
    let len = u64::get(cursor)?;
    cursor.expect(len, 1)?;
    if len > MAX_LEN {
        bail!("{} is a string of {len} bytes", cursor.place());
    }
    let bytes = cursor.take(len)?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => bail!("{} is not UTF-8", cursor.place()),
    }
}

/// Reads the string of a value, whatever its bytes. Fails on a length past the end.
fn get_text(cursor: &mut Cursor) -> Result<String> {
    let len = u64::get(cursor)?;
    Ok(text::from_bytes(cursor.take(len)?))
}

impl Value {
    /// The id of this value's type in the file.
    pub(super) fn type_id(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::String(_) => STRING,
            Value::Array(_) => ARRAY,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }

    /// Whether the value always takes the same number of bytes.
    pub fn is_scalar(&self) -> bool {
        !matches!(self, Value::String(_) | Value::Array(_))
    }

    /// Bytes of the value without its type id.
    pub(super) fn size(&self) -> u64 {
        match_value!(self, v => size_of_scalar(v), s => text::size(s), a => 4 + 8 + a.size())
    }

    /// Appends the value without its type id.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match_value!(self, v => v.put(out), s => text::put(s, out), a => {
            a.type_id().put(out);
            (a.len() as u64).put(out);
            a.put(out);
        });
    }

    /// Reads a value of type `type_id`.
    pub(super) fn get(cursor: &mut Cursor, type_id: u32) -> Result<Value> {
        Ok(match type_id {
            0 => Value::U8(Scalar::get(cursor)?),
            1 => Value::I8(Scalar::get(cursor)?),
            2 => Value::U16(Scalar::get(cursor)?),
            3 => Value::I16(Scalar::get(cursor)?),
            4 => Value::U32(Scalar::get(cursor)?),
            5 => Value::I32(Scalar::get(cursor)?),
            6 => Value::F32(Scalar::get(cursor)?),
            7 => Value::Bool(Scalar::get(cursor)?),
            STRING => Value::String(get_text(cursor)?),
            ARRAY => Value::Array(Array::get(cursor)?),
            10 => Value::U64(Scalar::get(cursor)?),
            11 => Value::I64(Scalar::get(cursor)?),
            12 => Value::F64(Scalar::get(cursor)?),
            other => bail!("{} has an unknown value type: `{other}`", cursor.place()),
        })
    }

    /// The value as an unsigned number, if it is a non-negative integer of any width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }
}

impl Array {
    /// The items of an array of whole numbers, of a type that llama.cpp's tools write.
    pub fn whole_numbers(&self) -> Option<Vec<i128>> {
        fn wide<T: Copy + Into<i128>>(items: &[T]) -> Option<Vec<i128>> {
            Some(items.iter().map(|&item| item.into()).collect())
        }
        match self {
            Array::U16(items) => wide(items),
            Array::U32(items) => wide(items),
            Array::I32(items) => wide(items),
            Array::U64(items) => wide(items),
            Array::I64(items) => wide(items),
            _ => None,
        }
    }

    fn type_id(&self) -> u32 {
        match self {
            Array::U8(_) => 0,
            Array::I8(_) => 1,
            Array::U16(_) => 2,
            Array::I16(_) => 3,
            Array::U32(_) => 4,
            Array::I32(_) => 5,
            Array::F32(_) => 6,
            Array::Bool(_) => 7,
            Array::String(_) => STRING,
            Array::U64(_) => 10,
            Array::I64(_) => 11,
            Array::F64(_) => 12,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match_array!(self, v => v.len(), s => s.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the elements.
    fn size(&self) -> u64 {
        match_array!(self, v => size_of_items(v), s => s.iter().map(|text| text::size(text)).sum())
    }

    fn put(&self, out: &mut Vec<u8>) {
        match_array!(self, v => v.iter().for_each(|item| item.put(out)), s => {
            s.iter().for_each(|text| text::put(text, out));
        });
    }

    fn get(cursor: &mut Cursor) -> Result<Array> {
        let type_id = u32::get(cursor)?;
        let len = u64::get(cursor)?;
        if len > MAX_LEN {
            bail!("{} is an array of {len} elements, more than {MAX_LEN}", cursor.place());
        }
        Ok(match type_id {
            0 => Array::U8(items(cursor, len)?),
            1 => Array::I8(items(cursor, len)?),
            2 => Array::U16(items(cursor, len)?),
            3 => Array::I16(items(cursor, len)?),
            4 => Array::U32(items(cursor, len)?),
            5 => Array::I32(items(cursor, len)?),
            6 => Array::F32(items(cursor, len)?),
            7 => Array::Bool(items(cursor, len)?),
            STRING => {
                cursor.expect(len, 8)?;
                Array::String((0..len).map(|_| get_text(cursor)).collect::<Result<_>>()?)
            }
            ARRAY => bail!("{} is an array of arrays", cursor.place()),
            10 => Array::U64(items(cursor, len)?),
            11 => Array::I64(items(cursor, len)?),
            12 => Array::F64(items(cursor, len)?),
            other => bail!("{} is an array of an unknown value type: `{other}`", cursor.place()),
        })
    }
}

/// Reads `len` elements, after checking that the file holds them.
fn items<T: Scalar>(cursor: &mut Cursor, len: u64) -> Result<Vec<T>> {
    cursor.expect(len, T::SIZE as u64)?;
    (0..len).map(|_| T::get(cursor)).collect()
}

macro_rules! from {
    ($($ty:ty => $variant:ident),*) => {$(
        impl From<$ty> for Value {
            fn from(value: $ty) -> Value {
                Value::$variant(value.into())
            }
        }
    )*};
}
from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
      String => String, &str => String, u64 => U64, i64 => I64, f64 => F64, Array => Array);

macro_rules! from_vec {
    ($($ty:ty => $variant:ident),*) => {$(
        impl From<Vec<$ty>> for Value {
            fn from(items: Vec<$ty>) -> Value {
                Value::Array(Array::$variant(items))
            }
        }
    )*};
}
from_vec!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
          String => String, u64 => U64, i64 => I64, f64 => F64);
