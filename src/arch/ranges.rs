//! The range of every number that a config or metadata may give: outside of it a model computes nothing sensible, such as a
//! model whose norms have an infinite epsilon, which "diverges" from nothing.

use anyhow::{Result, bail};

/// What a number may be. A number under another key has no use here and is not looked at.
struct Range {
    /// Under `{architecture}.` in GGUF metadata.
    gguf: &'static str,
    /// In config.json; empty where the key is computed.
    hf: &'static [&'static str],
    least: f64,
    most: f64,
}

const fn range(gguf: &'static str, hf: &'static [&'static str], least: f64, most: f64) -> Range {
    Range { gguf, hf, least, most }
}

/// The largest whole number of metadata.
const U32: f64 = u32::MAX as f64;

const RANGES: &[Range] = &[
    range("block_count", &["num_hidden_layers"], 1.0, 65_536.0),
    range("context_length", &["max_position_embeddings"], 1.0, U32),
    range("embedding_length", &["hidden_size"], 1.0, 16_777_216.0),
    range("feed_forward_length", &["intermediate_size"], 1.0, 16_777_216.0),
    range("vocab_size", &["vocab_size"], 1.0, 1_073_741_824.0),
    range("attention.head_count", &["num_attention_heads"], 1.0, 65_536.0),
    range("attention.head_count_kv", &["num_key_value_heads"], 1.0, 65_536.0),
    range("attention.key_length", &["head_dim"], 1.0, 65_536.0),
    range("attention.value_length", &[], 1.0, 65_536.0),
    range("attention.layer_norm_rms_epsilon", &["rms_norm_eps"], 0.0, 0.1),
    range("attention.layer_norm_epsilon", &["layer_norm_eps"], 0.0, 0.1),
    range("attention.scale", &["attention_multiplier"], 1e-6, 1e6),
    range("embedding_scale", &["embedding_multiplier"], 1e-6, 1e6),
    range("residual_scale", &["residual_multiplier"], 1e-6, 1e6),
    range("logit_scale", &["logits_scaling", "logit_scale"], 1e-6, 1e6),
    // 0: none
    range("attention.sliding_window", &[], 0.0, U32),
    range("", &["sliding_window"], 1.0, U32),
    range("attention.sliding_window_pattern", &["sliding_window_pattern", "_sliding_window_pattern"], 1.0, 65_536.0),
    range("", &["query_pre_attn_scalar"], 1e-6, 1e9),
    range("attn_logit_softcapping", &["attn_logit_softcapping"], 1e-6, 1e9),
    range("final_logit_softcapping", &["final_logit_softcapping"], 1e-6, 1e9),
    range("expert_count", &["num_local_experts", "num_experts", "n_routed_experts"], 0.0, 65_536.0),
    range("expert_shared_count", &["n_shared_experts"], 0.0, 65_536.0),
    range(
        "expert_shared_feed_forward_length",
        &["shared_expert_intermediate_size", "shared_intermediate_size"],
        0.0,
        16_777_216.0,
    ),
    range("expert_gating_func", &[], 0.0, 16.0),
    range("expert_weights_scale", &["routed_scaling_factor"], 0.0, 1e6),
    range("expert_group_count", &["n_group"], 1.0, 65_536.0),
    range("expert_group_used_count", &["topk_group"], 1.0, 65_536.0),
    range("nextn_predict_layers", &["num_nextn_predict_layers"], 0.0, 65_536.0),
    range("leading_dense_block_count", &["first_k_dense_replace"], 0.0, 65_536.0),
    range("expert_used_count", &["num_experts_per_tok"], 1.0, 65_536.0),
    range("expert_feed_forward_length", &["moe_intermediate_size"], 1.0, 16_777_216.0),
    range("", &["decoder_sparse_step", "no_rope_layer_interval"], 1.0, U32),
    range("attention.key_length_mla", &[], 1.0, 65_536.0),
    range("attention.value_length_mla", &["v_head_dim"], 1.0, 65_536.0),
    range("attention.kv_lora_rank", &["kv_lora_rank"], 1.0, 65_536.0),
    range("attention.q_lora_rank", &["q_lora_rank"], 1.0, 65_536.0),
    range("", &["qk_nope_head_dim", "qk_rope_head_dim"], 1.0, 65_536.0),
    range("", &["mscale_all_dim", "mscale"], 0.0, 1e6),
    range("ssm.conv_kernel", &["linear_conv_kernel_dim"], 1.0, 65_536.0),
    range("ssm.state_size", &["linear_key_head_dim"], 1.0, 65_536.0),
    range("ssm.group_count", &["linear_num_key_heads"], 1.0, 65_536.0),
    range("ssm.time_step_rank", &["linear_num_value_heads"], 1.0, 65_536.0),
    range("ssm.inner_size", &[], 1.0, 16_777_216.0),
    range("", &["linear_value_head_dim"], 1.0, 65_536.0),
    range("full_attention_interval", &["full_attention_interval"], 1.0, 65_536.0),
    range("rope.dimension_count", &[], 1.0, 65_536.0),
    // the logarithm of the base divides
    range("rope.freq_base", &["rope_theta"], 1.0 + 1e-6, 1e15),
    range("rope.freq_base_swa", &["rope_local_base_freq"], 1.0 + 1e-6, 1e15),
    range("rope.scaling.factor", &["factor"], 1e-6, 1e6),
    range("rope.scale_linear", &[], 1e-6, 1e6),
    range("rope.scaling.attn_factor", &[], 1e-6, 1e6),
    range("rope.scaling.original_context_length", &["original_max_position_embeddings"], 1.0, U32),
    // below 0: not given
    range("rope.scaling.yarn_ext_factor", &["extrapolation_factor"], -1.0, 1e6),
    range("rope.scaling.yarn_attn_factor", &["attention_factor", "attn_factor"], -1.0, 1e6),
    range("rope.scaling.yarn_beta_fast", &["beta_fast"], 1e-6, 1e6),
    range("rope.scaling.yarn_beta_slow", &["beta_slow"], 1e-6, 1e6),
    range("rope.scaling.yarn_log_multiplier", &[], -1e6, 1e6),
    range("", &["low_freq_factor"], 1e-6, 1e6),
    range("", &["high_freq_factor"], 1e-6, 1e6),
    range("", &["partial_rotary_factor"], 0.0, 1.0),
];

/// Fails unless the number under `{architecture}.key` is in its range.
pub(super) fn check_gguf(architecture: &str, key: &str, number: f64) -> Result<()> {
    let range = RANGES.iter().find(|range| range.gguf == key).expect("every key that is read has a range");
    match range.contains(number) {
        true => Ok(()),
        false => bail!("metadata key is {}: `{architecture}.{key}`", range.complaint(number)),
    }
}

/// What is wrong with the number under `key` of config.json: `1e40, which is not from 0 to 0.1`.
pub(super) fn complaint_hf(key: &str, number: f64) -> Option<String> {
    let range = RANGES.iter().find(|range| range.hf.contains(&key)).expect("every key that is read has a range");
    (!range.contains(number)).then(|| range.complaint(number))
}

impl Range {
    /// False for what is not a number.
    fn contains(&self, number: f64) -> bool {
        (self.least..=self.most).contains(&number)
    }

    fn complaint(&self, number: f64) -> String {
        format!("{number}, which is not from {} to {}", self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_in_no_range() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for range in RANGES {
                assert!(!range.contains(number), "{}", range.gguf);
            }
        }
        assert!(check_gguf("llama", "attention.layer_norm_rms_epsilon", 1e-5).is_ok());
        let error = check_gguf("llama", "rope.freq_base", f64::INFINITY).unwrap_err().to_string();
        assert_eq!(
            error,
            "metadata key is inf, which is not from 1.000001 to 1000000000000000: `llama.rope.freq_base`"
        );
    }
}
