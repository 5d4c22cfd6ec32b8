//! The WGSL of the program and the preprocessor that composes it.
//!
//! One directive: a line `#import name` is replaced by `shaders/common/name.wgsl`, once per composition.
//! `#import weight` is replaced by the decoder of the weight type that the pipeline is made for, `shaders/decode/TYPE.wgsl`,
//! and a name with a slash by that file.
//! Everything else that varies is an `override` constant, so each file stays plain WGSL.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};

use crate::quant::GgmlType;

macro_rules! wgsl {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*]
    };
}

/// Every file under `shaders/`, by its path without the ending.
pub static SOURCES: &[(&str, &str)] = wgsl![
    "common/activation",
    "common/affine_search",
    "common/affine_super",
    "common/attention",
    "common/attention_backward",
    "common/attention_forward",
    "common/book_iq1",
    "common/book_iq2_s",
    "common/book_iq2_xs",
    "common/book_iq2_xxs",
    "common/book_iq3_s",
    "common/book_iq3_xxs",
    "common/bytes",
    "common/codebook_scales",
    "common/codeword_halves",
    "common/codeword_search",
    "common/codeword_search_shared",
    "common/codewords",
    "common/delta_gates",
    "common/digits",
    "common/e2m1",
    "common/e2m1_nearest",
    "common/f16",
    "common/gated_delta",
    "common/grid",
    "common/integer_levels",
    "common/iq2_eighths",
    "common/iq2_levels",
    "common/iq4_levels",
    "common/iq4_nearest",
    "common/k_scales",
    "common/listed_rows",
    "common/no_scale",
    "common/norm",
    "common/octal_halves",
    "common/one_scale",
    "common/put_half",
    "common/put_k_scale",
    "common/put_nibble",
    "common/put_quarter",
    "common/ratio",
    "common/recode",
    "common/recode_shifted",
    "common/recode_signed",
    "common/recode_steps",
    "common/recode_words",
    "common/reduce",
    "common/reduce_max",
    "common/refit",
    "common/sample",
    "common/scale_search",
    "common/shifted_coder",
    "common/shifted_levels",
    "common/short_conv",
    "common/sigmoid",
    "common/sigmoid_gate",
    "common/signed_coder",
    "common/signed_levels",
    "common/signs",
    "common/sub_block",
    "common/sum_block",
    "common/super_scale",
    "common/symmetric_super",
    "common/ternary_halves",
    "common/ternary_scale",
    "common/tile",
    "common/turn",
    "common/turn_k_scale",
    "common/ue4m3",
    "decode/bf16",
    "decode/f16",
    "decode/f32",
    "decode/iq1_m",
    "decode/iq1_s",
    "decode/iq2_s",
    "decode/iq2_xs",
    "decode/iq2_xxs",
    "decode/iq3_s",
    "decode/iq3_xxs",
    "decode/iq4_nl",
    "decode/iq4_xs",
    "decode/mxfp4",
    "decode/nvfp4",
    "decode/q1_0",
    "decode/q2_0",
    "decode/q2_k",
    "decode/q3_k",
    "decode/q4_0",
    "decode/q4_1",
    "decode/q4_k",
    "decode/q5_0",
    "decode/q5_1",
    "decode/q5_k",
    "decode/q6_k",
    "decode/q8_0",
    "decode/tq1_0",
    "decode/tq2_0",
    "encode/bf16",
    "encode/f16",
    "encode/iq1_m",
    "encode/iq1_s",
    "encode/iq2_s",
    "encode/iq2_xs",
    "encode/iq2_xxs",
    "encode/iq3_s",
    "encode/iq3_xxs",
    "encode/iq4_nl",
    "encode/iq4_xs",
    "encode/mxfp4",
    "encode/nvfp4",
    "encode/q1_0",
    "encode/q2_0",
    "encode/q2_k",
    "encode/q3_k",
    "encode/q4_0",
    "encode/q4_1",
    "encode/q4_k",
    "encode/q5_0",
    "encode/q5_1",
    "encode/q5_k",
    "encode/q6_k",
    "encode/q8_0",
    "encode/tq1_0",
    "encode/tq2_0",
    "recode/iq1_m",
    "recode/iq1_s",
    "recode/iq2_s",
    "recode/iq2_xs",
    "recode/iq2_xxs",
    "recode/iq3_s",
    "recode/iq3_xxs",
    "recode/iq4_nl",
    "recode/iq4_xs",
    "recode/mxfp4",
    "recode/nvfp4",
    "recode/q1_0",
    "recode/q2_0",
    "recode/q2_k",
    "recode/q3_k",
    "recode/q4_0",
    "recode/q4_1",
    "recode/q4_k",
    "recode/q5_0",
    "recode/q5_1",
    "recode/q5_k",
    "recode/q6_k",
    "recode/q8_0",
    "recode/tq1_0",
    "recode/tq2_0",
    "add_rows",
    "attention",
    "attention_backward_kv",
    "attention_backward_q",
    "attention_stats",
    "column_moments",
    "copy_columns",
    "decode",
    "delta_gates",
    "delta_gates_backward",
    "gated_delta",
    "gated_delta_backward",
    "gather_rows",
    "glu",
    "glu_backward",
    "gram",
    "kld",
    "logit_shape",
    "logit_shape_backward",
    "matmul",
    "matmul_transposed",
    "norm",
    "norm_backward",
    "rope",
    "row_dot",
    "row_error",
    "sample_cdf",
    "sample_gradient",
    "sample_lse",
    "scale",
    "short_conv",
    "short_conv_backward",
    "sigmoid_gate",
    "sigmoid_gate_backward",
    "status",
    "sum",
    "weight_difference",
];

/// The text of one file.
pub fn source(name: &str) -> Result<&'static str> {
    let found = SOURCES.iter().find(|(path, _)| *path == name);
    found.map(|(_, text)| *text).with_context(|| format!("no such shader: `{name}`"))
}

/// The files with an entry point, that is all except `common/` and `decode/`.
pub fn entries() -> impl Iterator<Item = &'static str> {
    let library = |path: &str| path.starts_with("common/") || path.starts_with("decode/");
    SOURCES.iter().map(|(path, _)| *path).filter(move |path| !library(path))
}

/// The weight types that a kernel with `#import weight` can read on a GPU.
pub fn decoders() -> impl Iterator<Item = GgmlType> {
    GgmlType::all().filter(|ty| source(&decoder(*ty)).is_ok())
}

fn decoder(ty: GgmlType) -> String {
    format!("decode/{}", ty.name().to_lowercase())
}

/// Whether the composed shader needs a weight type.
pub fn reads_weight(name: &str) -> Result<bool> {
    Ok(imports(source(name)?).any(|import| import == "weight"))
}

fn imports(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("#import ").map(str::trim))
}

/// The complete WGSL of the shader `name`, for weights of type `weight` where it reads any.
pub fn compose(name: &str, weight: Option<GgmlType>) -> Result<String> {
    let mut out = String::new();
    append(name, weight, &mut HashSet::new(), &mut out)?;
    Ok(out)
}

/// Whether a composed shader reads the codewords of the IQ formats, which are bound apart.
pub(super) fn reads_codewords(text: &str) -> bool {
    text.contains("@group(1)")
}

/// The storage bindings that a composed shader writes, as places in [`super::Call::bindings`].
pub(super) fn written_bindings(text: &str) -> Vec<usize> {
    let written = text.lines().filter(|line| line.contains("var<storage, read_write>"));
    let number = |line: &str| line.split_once("@binding(")?.1.split_once(')')?.0.parse::<usize>().ok();
    written.filter_map(|line| number(line)?.checked_sub(1)).collect()
}

fn append(name: &str, weight: Option<GgmlType>, done: &mut HashSet<String>, out: &mut String) -> Result<()> {
    if !done.insert(name.to_owned()) {
        return Ok(());
    }
    for line in source(name)?.lines() {
        let Some(import) = line.trim().strip_prefix("#import ").map(str::trim) else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let path = match (import, weight) {
            ("weight", Some(ty)) => decoder(ty),
            ("weight", None) => bail!("shader `{name}` needs a weight type"),
            (path, _) if path.contains('/') => path.to_owned(),
            (common, _) => format!("common/{common}"),
        };
        append(&path, weight, done, out).with_context(|| format!("imported by shader `{name}`"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_appears_once_and_unknown_names_fail() {
        let text = compose("status", None).unwrap();
        assert_eq!(text.matches("struct Grid").count(), 1);
        assert!(!text.contains("#import"));
        assert_eq!(written_bindings(&text), [0]);
        assert!(compose("no-such-shader", None).is_err());
    }

    #[test]
    fn every_file_under_shaders_is_listed() {
        fn walk(dir: &std::path::Path, root: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, root, found);
                } else if path.extension().is_some_and(|ending| ending == "wgsl") {
                    let name = path.strip_prefix(root).unwrap().with_extension("");
                    found.push(name.to_str().unwrap().replace('\\', "/"));
                }
            }
        }
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        let mut found = Vec::new();
        walk(&root, &root, &mut found);
        for name in found {
            assert!(source(&name).is_ok(), "shaders/{name}.wgsl is not in SOURCES");
        }
    }
}
