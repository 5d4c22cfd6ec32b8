//! config.json of a Hugging Face folder, with transformers' defaults where a key is missing.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value};

use super::ranges;
use crate::kernels::glu::Activation;
use crate::{files, json};

/// A parsed config.json. A key whose value is null counts as missing.
#[derive(Clone, Debug)]
pub struct HfConfig {
    path: PathBuf,
    json: Value,
}

/// The base of the rotary frequencies in most of transformers' config classes.
pub(super) const THETA: f64 = 10_000.0;

/// Rotary embedding settings, from `rope_parameters`, `rope_scaling` or the old top-level keys.
#[derive(Clone, Debug, PartialEq)]
pub struct HfRope {
    pub theta: f64,
    /// The share of each head that is rotated.
    pub part: Option<f64>,
    pub scaling: HfScaling,
}

/// How rotary frequencies are stretched (transformers `modeling_rope_utils.py`).
#[derive(Clone, Debug, PartialEq)]
pub enum HfScaling {
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
    Yarn {
        factor: f64,
        original_context: u32,
        extrapolation_factor: Option<f64>,
        attention_factor: Option<f64>,
        beta_fast: Option<f64>,
        beta_slow: Option<f64>,
    },
    /// What each frequency is divided by, in long contexts and in others.
    Long {
        long: Vec<f32>,
        short: Vec<f32>,
    },
}

impl HfConfig {
    /// Reads config.json of a folder; `None` without one. Fails if it is not a JSON object.
    pub fn read(folder: &Path) -> Result<Option<HfConfig>> {
        let path = folder.join("config.json");
        let Some(text) = files::member_text(&path)? else { return Ok(None) };
        let json =
            json::parse_settings(&text).map_err(|error| anyhow!("cannot parse: `{}` ({error})", path.display()))?;
        HfConfig::new(&path, json).map(Some)
    }

    /// A config from parsed JSON; `path` is for error messages. What a multimodal config says of its text part comes to the top.
    pub fn new(path: &Path, mut json: Value) -> Result<HfConfig> {
        let Some(map) = json.as_object_mut() else { bail!("not a JSON object: `{}`", path.display()) };
        if let Some(Value::Object(text)) = map.remove("text_config") {
            map.extend(text);
        }
        Ok(HfConfig { path: path.to_owned(), json })
    }

    /// The config with what transformers' config class has where keys are absent.
    pub fn with_defaults(mut self, defaults: &[(&str, Value)]) -> HfConfig {
        let map = self.json.as_object_mut().expect("checked when it was read");
        for (key, value) in defaults {
            map.entry(*key).or_insert_with(|| value.clone());
        }
        self
    }

    /// The whole file, with its text part at the top.
    pub fn json(&self) -> &Value {
        &self.json
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn map(&self) -> &Map<String, Value> {
        self.json.as_object().expect("checked when it was read")
    }

    /// The value of a key that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map().get(key).filter(|value| !value.is_null())
    }

    /// The first name under `architectures`.
    pub fn architecture(&self) -> Result<&str> {
        let name = self.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
        name.ok_or_else(|| anyhow!("config.json names no model architecture: `{}`", self.path.display()))
    }

    /// Who quantized the weights, if the config says that somebody did.
    pub fn quantization(&self) -> Option<String> {
        let settings = self.get("quantization_config").or_else(|| self.get("compression_config"))?;
        let method = settings.get("quant_method").and_then(Value::as_str).map(|method| match method {
            "gptq" => "GPTQ",
            "awq" => "AWQ",
            "fp8" | "fbgemm_fp8" => "FP8",
            other => other,
        });
        let is_bitsandbytes = settings.get("load_in_4bit").or_else(|| settings.get("load_in_8bit")).is_some();
        let method = method.or(is_bitsandbytes.then_some("bitsandbytes")).unwrap_or("an unnamed method");
        Some(format!("{method} (`quantization_config` in config.json)"))
    }

    fn complaint(&self, key: &str, wanted: &str) -> anyhow::Error {
        let found = if self.get(key).is_some() { "is not" } else { "is missing; it should be" };
        anyhow!("`{key}` {found} {wanted}: `{}`", self.path.display())
    }

    /// A u32, or `None` where it is missing. Fails on anything else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.ok_or_else(|| self.complaint(key, "a whole number"))?;
        // of 0 a caller may know more
        if number > 0 {
            self.in_range(key, number.into())?
        }
        Ok(Some(number))
    }

    /// A positive u32, which must be there.
    pub fn size(&self, key: &str) -> Result<u32> {
        let size = self.u32(key)?.filter(|&size| size > 0);
        size.ok_or_else(|| self.complaint(key, "a whole number above 0"))
    }

    /// A positive u32, or `default` where it is missing.
    pub fn size_or(&self, key: &str, default: u32) -> Result<u32> {
        if self.get(key).is_none() { Ok(default) } else { self.size(key) }
    }

    /// A number, or `None` where it is missing. Fails on anything else.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| self.complaint(key, "a number"))?;
        self.in_range(key, number)?;
        Ok(Some(number))
    }

    fn in_range(&self, key: &str, number: f64) -> Result<()> {
        match ranges::complaint_hf(key, number) {
            None => Ok(()),
            Some(complaint) => bail!("`{key}` is {complaint}: `{}`", self.path.display()),
        }
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.complaint(key, "true or false"))
    }

    /// Fails unless the activation is the family's.
    pub fn check_activation(&self, family: Activation) -> Result<()> {
        let (key, known): (_, &[&str]) = match family {
            // gpt-oss calls its own by the name of what it resembles
            Activation::Silu | Activation::ClampedSwiglu => ("hidden_act", &["silu", "swish"]),
            Activation::GeluTanh => ("hidden_activation", &["gelu_pytorch_tanh"]),
        };
        match self.get(key).map(|name| name.as_str().unwrap_or_default()) {
            Some(other) if !known.contains(&other) => {
                bail!("unsupported `{key}` `{other}`: `{}`", self.path.display())
            }
            _ => Ok(()),
        }
    }

    /// The base of the rotary frequencies, if it is given.
    pub fn rope_theta(&self) -> Result<Option<f64>> {
        let settings = Settings { config: self, map: self.rope_settings() };
        settings.number("rope_theta")?.map_or_else(|| self.f64("rope_theta"), |theta| Ok(Some(theta)))
    }

    /// The same of layers with a window, where they have their own.
    pub fn local_rope_theta(&self) -> Result<Option<f64>> {
        let nested = self.get("rope_parameters").and_then(|settings| settings.get("sliding_attention"));
        let settings = Settings { config: self, map: nested.and_then(Value::as_object) };
        let local = || self.f64("rope_local_base_freq");
        settings.number("rope_theta")?.map_or_else(local, |theta| Ok(Some(theta)))
    }

    /// A number among the settings of rotary embedding, if it is given.
    pub fn rope_number(&self, key: &str) -> Result<Option<f64>> {
        Settings { config: self, map: self.rope_settings() }.number(key)
    }

    /// Rotary embedding settings. `context` is `max_position_embeddings`.
    ///
    /// Fails on a scaling that is unknown or lacks a number.
    pub fn rope(&self, context: u32) -> Result<HfRope> {
        let settings = Settings { config: self, map: self.rope_settings() };
        let theta = self.rope_theta()?.unwrap_or(THETA);
        let part = settings.number("partial_rotary_factor")?.or(self.f64("partial_rotary_factor")?);
        Ok(HfRope { theta, part, scaling: settings.scaling(context)? })
    }

    /// The settings' object. transformers prefers the old name where both are there.
    fn rope_settings(&self) -> Option<&Map<String, Value>> {
        let named = |key| self.get(key).and_then(Value::as_object).filter(|map| !map.is_empty());
        let map = named("rope_scaling").or_else(|| named("rope_parameters"))?;
        match map.get("full_attention").and_then(Value::as_object) {
            Some(nested) => Some(nested),
            None => Some(map),
        }
    }
}

/// The rope settings' object, if there is one.
struct Settings<'a> {
    config: &'a HfConfig,
    map: Option<&'a Map<String, Value>>,
}

impl Settings<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64();
        let number = number.ok_or_else(|| anyhow!("`{key}` of the rope scaling is not a number: `{}`", self.path()))?;
        self.config.in_range(key, number)?;
        Ok(Some(number))
    }

    /// A number that must be there.
    fn required(&self, key: &str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| anyhow!("`{key}` of the rope scaling is missing: `{}`", self.path()))
    }

    /// Numbers that divide.
    fn factors(&self, key: &str) -> Result<Vec<f32>> {
        let numbers = self.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let factors: Vec<f32> = numbers.iter().filter_map(Value::as_f64).map(|number| number as f32).collect();
        if factors.is_empty() || factors.len() != numbers.len() || factors.iter().any(|factor| *factor <= 0.0) {
            bail!("`{key}` of the rope scaling is no list of numbers above 0: `{}`", self.path());
        }
        Ok(factors)
    }

    fn path(&self) -> std::path::Display<'_> {
        self.config.path.display()
    }

    /// transformers gives the top-level key priority, and falls back on `max_position_embeddings`.
    fn original_context(&self, context: u32) -> Result<f64> {
        let key = "original_max_position_embeddings";
        Ok(self.config.f64(key)?.or(self.number(key)?).unwrap_or(context.into()))
    }

    fn scaling(&self, context: u32) -> Result<HfScaling> {
        let kind = self.get("rope_type").or_else(|| self.get("type")).and_then(Value::as_str).unwrap_or("default");
        Ok(match kind {
            "default" => HfScaling::None,
            // stretches only past the context it was trained for
            "dynamic" => HfScaling::None,
            "linear" => HfScaling::Linear { factor: self.required("factor")? },
            "llama3" => HfScaling::Llama3 {
                factor: self.required("factor")?,
                low_freq_factor: self.required("low_freq_factor")?,
                high_freq_factor: self.required("high_freq_factor")?,
                original_context: self.original_context(context)?,
            },
            "yarn" => HfScaling::Yarn {
                factor: self.required("factor")?,
                original_context: self.original_context(context)? as u32,
                extrapolation_factor: self.number("extrapolation_factor")?,
                attention_factor: self.number("attention_factor")?.or(self.number("attn_factor")?),
                beta_fast: self.number("beta_fast")?,
                beta_slow: self.number("beta_slow")?,
            },
            "longrope" | "su" => {
                HfScaling::Long { long: self.factors("long_factor")?, short: self.factors("short_factor")? }
            }
            other => bail!(
                "unknown rope scaling `{other}` (known: default, dynamic, linear, llama3, longrope, yarn): `{}`",
                self.path()
            ),
        })
    }
}
