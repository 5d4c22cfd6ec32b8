//! The ordered key-value pairs of a GGUF.

use std::collections::HashMap;

use anyhow::{Result, anyhow, bail};

use super::value::{Array, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT};

/// Ordered metadata with unique keys.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
    places: HashMap<String, usize>,
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.pairs == other.pairs
    }
}

impl Metadata {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.places.get(key).map(|&place| &self.pairs[place].1)
    }

    /// Sets a key. A key that is already there keeps its place; a new one goes to the end.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.places.get(&key) {
            Some(&place) => self.pairs[place].1 = value,
            None => {
                self.places.insert(key.clone(), self.pairs.len());
                self.pairs.push((key, value));
            }
        }
    }

    /// Sets all keys of another.
    pub fn extend(&mut self, other: Metadata) {
        other.pairs.into_iter().for_each(|(key, value)| self.set(key, value));
    }

    /// Removes a key and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let place = self.places.remove(key)?;
        for later in self.places.values_mut().filter(|later| **later > place) {
            *later -= 1;
        }
        Some(self.pairs.remove(place).1)
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn str(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A non-negative integer of any type that fits in a u64.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A non-negative integer of any type that fits in a u32.
    pub fn u32(&self, key: &str) -> Option<u32> {
        self.u64(key)?.try_into().ok()
    }

    /// A floating-point number of either width.
    pub fn f32(&self, key: &str) -> Option<f32> {
        match *self.get(key)? {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    pub fn bool(&self, key: &str) -> Option<bool> {
        match *self.get(key)? {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    pub fn array(&self, key: &str) -> Option<&Array> {
        match self.get(key)? {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.array(key)? {
            Array::String(texts) => Some(texts),
            _ => None,
        }
    }

    /// The u32 under `key`, or an error that names the key.
    pub fn require_u32(&self, key: &str) -> Result<u32> {
        self.u32(key).ok_or_else(|| self.complaint(key, "a non-negative integer"))
    }

    /// The f32 under `key`, or an error that names the key.
    pub fn require_f32(&self, key: &str) -> Result<f32> {
        self.f32(key).ok_or_else(|| self.complaint(key, "a number"))
    }

    /// The string under `key`, or an error that names the key.
    pub fn require_str(&self, key: &str) -> Result<&str> {
        self.str(key).ok_or_else(|| self.complaint(key, "a string"))
    }

    fn complaint(&self, key: &str, wanted: &str) -> anyhow::Error {
        if self.contains(key) {
            anyhow!("metadata key is not {wanted}: `{key}`")
        } else {
            anyhow!("metadata key is missing: `{key}`")
        }
    }

    /// The alignment of the file: `general.alignment`, or 32. Fails unless it is a u32 power of two.
    pub(super) fn alignment(&self) -> Result<u64> {
        match self.get(ALIGNMENT_KEY) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(&Value::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment.into()),
            Some(_) => bail!("metadata key is not a u32 power of two: `{ALIGNMENT_KEY}`"),
        }
    }
}

impl FromIterator<(String, Value)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Self {
        let mut metadata = Metadata::new();
        for (key, value) in pairs {
            metadata.set(key, value);
        }
        metadata
    }
}
