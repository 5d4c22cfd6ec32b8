//! llama.cpp's file types: the names that `llama-quantize` takes and the ids of `general.file_type`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, bail};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::quant::GgmlType;

macro_rules! ftypes {
    ($($name:ident = $id:literal => $default:ident),+ $(,)?) => {
        /// A llama.cpp file type (`llama.h`, `enum llama_ftype`). Its mixture rules are in [`super::mixes`].
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Ftype { $($name = $id),+ }

        impl Ftype {
            /// Every file type that `llama-quantize` offers, by id.
            pub const ALL: &[Ftype] = &[$(Ftype::$name),+];

            /// The name used by `llama-quantize`.
            pub fn name(self) -> &'static str {
                match self { $(Ftype::$name => stringify!($name)),+ }
            }

            /// The tensor type that the mixture rules start from.
            pub fn default_type(self) -> GgmlType {
                match self { $(Ftype::$name => GgmlType::$default),+ }
            }
        }
    };
}

ftypes! {
    F32 = 0 => F32, F16 = 1 => F16, Q4_0 = 2 => Q4_0, Q4_1 = 3 => Q4_1, Q8_0 = 7 => Q8_0, Q5_0 = 8 => Q5_0,
    Q5_1 = 9 => Q5_1, Q2_K = 10 => Q2_K, Q3_K_S = 11 => Q3_K, Q3_K_M = 12 => Q3_K, Q3_K_L = 13 => Q3_K,
    Q4_K_S = 14 => Q4_K, Q4_K_M = 15 => Q4_K, Q5_K_S = 16 => Q5_K, Q5_K_M = 17 => Q5_K, Q6_K = 18 => Q6_K,
    IQ2_XXS = 19 => IQ2_XXS, IQ2_XS = 20 => IQ2_XS, Q2_K_S = 21 => Q2_K, IQ3_XS = 22 => IQ3_S,
    IQ3_XXS = 23 => IQ3_XXS, IQ1_S = 24 => IQ1_S, IQ4_NL = 25 => IQ4_NL, IQ3_S = 26 => IQ3_S, IQ3_M = 27 => IQ3_S,
    IQ2_S = 28 => IQ2_XS, IQ2_M = 29 => IQ2_S, IQ4_XS = 30 => IQ4_XS, IQ1_M = 31 => IQ1_M, BF16 = 32 => BF16,
    TQ1_0 = 36 => TQ1_0, TQ2_0 = 37 => TQ2_0, MXFP4_MOE = 38 => MXFP4, Q1_0 = 40 => Q1_0, Q2_0 = 41 => Q2_0,
}

impl Ftype {
    /// The id stored in `general.file_type`.
    pub fn id(self) -> u32 {
        self as u32
    }

    pub fn from_id(id: u32) -> Option<Ftype> {
        Self::ALL.iter().copied().find(|ftype| ftype.id() == id)
    }
}

impl FromStr for Ftype {
    type Err = Error;

    /// Names in any case, with the aliases `Q3_K`, `Q4_K` and `Q5_K` for the M mixes, as in `llama-quantize`.
    fn from_str(name: &str) -> Result<Ftype> {
        let full = match name.to_ascii_uppercase().as_str() {
            "Q3_K" => "Q3_K_M".to_owned(),
            "Q4_K" => "Q4_K_M".to_owned(),
            "Q5_K" => "Q5_K_M".to_owned(),
            other => other.to_owned(),
        };
        match Self::ALL.iter().find(|ftype| ftype.name() == full) {
            Some(&ftype) => Ok(ftype),
            None => {
                let names: Vec<&str> = Self::ALL.iter().map(|ftype| ftype.name()).collect();
                bail!("unknown file type, expected one of {}: `{name}`", names.join(", "))
            }
        }
    }
}

impl fmt::Display for Ftype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Ftype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Ftype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
