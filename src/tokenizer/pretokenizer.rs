//! Pre-tokenizers of byte-level BPE: the names of `tokenizer.ggml.pre` and the splitting steps each stands for.
//!
//! One table serves both directions: the steps found in a `tokenizer.json` give the name, a name gives the steps.
//! Facts: llama.cpp `src/llama-vocab.cpp` (names, merge behaviour) and the published `tokenizer.json` files (regexes).

use anyhow::{Result, bail, ensure};
use serde_json::{Value as Json, json};

/// One step of a pre-tokenizer, in the order applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Every match of the regex becomes a piece of its own, and so does every gap.
    Split(&'a str),
    /// Digits are split off: one by one, or as runs.
    Digits { one_by_one: bool },
    /// Runs of punctuation are pieces.
    Punctuation,
    /// GPT-2's own regex.
    Gpt2,
}

/// What llama.cpp does for one or more names of `tokenizer.ggml.pre`.
pub(super) struct PreTokenizer {
    /// The first is the name written when nothing in the model asks for another.
    names: &'static [&'static str],
    steps: &'static [Step<'static>],
    /// A piece that is a token as a whole is not merged further.
    pub(super) ignore_merges: bool,
    /// BOS is added unless `tokenizer.ggml.add_bos_token` says otherwise.
    pub(super) add_bos: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const AYA_DIGITS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
// Characters that a text editor might normalize are escaped.
const DEEPSEEK_WORDS: &str = concat!(
    "\\s?[A-Za-z\u{b5}À-ÖØ-öø-ƺƼ-ƿ\u{1c4}-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-\u{3f5}Ϸ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-Ჺ",
    "Ჽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ",
    "-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼ\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}ⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳ",
    "Ꙁ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
);
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-퟿]+";
const CJK: &str = "[一-龥぀-ゟ゠-ヿ]+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
const ONE_DIGIT: Step = Step::Digits { one_by_one: true };

const fn row(
    names: &'static [&'static str],
    steps: &'static [Step<'static>],
    ignore_merges: bool,
    add_bos: bool,
) -> PreTokenizer {
    PreTokenizer { names, steps, ignore_merges, add_bos }
}

/// Rows with the same steps differ in merge behaviour; [`identify`] tells them apart.
const TABLE: &[PreTokenizer] = &[
    row(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        &[Step::Split(LLAMA3)],
        true,
        true,
    ),
    row(&["glm4", "glm5"], &[Step::Split(LLAMA3)], true, false),
    row(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[Step::Split(LLAMA3)], false, false),
    row(
        &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        &[Step::Split(QWEN2)],
        false,
        false,
    ),
    row(&["qwen35"], &[Step::Split(QWEN35)], false, false),
    row(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[Step::Split(GPT4O)], false, false),
    row(&["tekken"], &[Step::Split(TEKKEN)], true, true),
    row(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[Step::Split(r"\p{N}{1,3}"), Step::Split(CJK), Step::Split(DEEPSEEK_V3)],
        false,
        false,
    ),
    row(
        &["deepseek-llm"],
        &[
            Step::Split(r"[\r\n]"),
            Step::Split(DEEPSEEK_WORDS),
            Step::Split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Step::Split(r"\s+$"),
            Step::Split(DEEPSEEK_CJK),
            ONE_DIGIT,
        ],
        false,
        false,
    ),
    row(
        &["deepseek-coder"],
        &[
            Step::Split(r"[\r\n]"),
            Step::Split(r"\s?\p{L}+"),
            Step::Split(r"\s?\p{P}+"),
            Step::Split(DEEPSEEK_CJK),
            ONE_DIGIT,
        ],
        false,
        false,
    ),
    row(
        &[
            "gpt-2",
            "phi-2",
            "olmo",
            "mpt",
            "jina-es",
            "jina-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jais",
            "trillion",
            "exaone4",
            "granite-docling",
        ],
        &[Step::Gpt2],
        false,
        false,
    ),
    row(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[ONE_DIGIT, Step::Gpt2],
        false,
        false,
    ),
    row(
        &["falcon"],
        &[Step::Punctuation, Step::Gpt2, Step::Digits { one_by_one: false }, Step::Split("[0-9][0-9][0-9]")],
        false,
        false,
    ),
    row(&["bloom", "poro-chat", "gpt3-finnish"], &[Step::Split(BLOOM)], false, false),
    row(&["viking"], &[Step::Split(BLOOM), ONE_DIGIT], false, false),
    row(&["minicpm5"], &[Step::Split(r"\p{N}{1,3}"), Step::Split(MINICPM5)], true, false),
    row(&["seed-coder"], &[Step::Split(SEED_CODER)], false, false),
    row(&["exaone-moe"], &[Step::Split(EXAONE_MOE)], false, false),
    row(&["bailingmoe", "bailingmoe2", "llada-moe"], &[Step::Split(BAILING)], false, false),
    row(&["jais-2"], &[Step::Split(JAIS2)], false, false),
    row(&["tiny_aya", "cohere2moe"], &[Step::Split(AYA_DIGITS), Step::Split(GPT4O)], false, false),
];

/// Names that a model family's own files carry where another family shares the steps.
/// (prefix of `architectures[0]`, name)
const BY_ARCHITECTURE: &[(&str, &str)] = &[
    ("ChatGLM", "chatglm-bpe"),
    ("Glm", "glm4"),
    ("Dbrx", "dbrx"),
    ("Llama4", "llama4"),
    ("MiniMax", "minimax-m2"),
    ("StableLm", "stablelm2"),
    ("Lfm2", "lfm2"),
    ("FalconH1", "falcon-h1"),
    ("Starcoder2", "starcoder"),
    ("GPTBigCode", "starcoder"),
    ("GPTRefact", "refact"),
    ("Cohere", "command-r"),
    ("Exaone4", "exaone4"),
    ("Exaone", "exaone"),
    ("Phi", "phi-2"),
    ("Olmo", "olmo"),
    ("MPT", "mpt"),
    ("HunYuanDense", "hunyuan-dense"),
    ("HunYuanMoE", "hunyuan"),
    ("KORMo", "kormo"),
    ("SolarOpen", "solar-open"),
];

/// The row of a `tokenizer.ggml.pre` name, if it is one that we can rebuild.
pub(super) fn by_name(name: &str) -> Option<&'static PreTokenizer> {
    TABLE.iter().find(|row| row.names.contains(&name))
}

/// The name llama.cpp knows the pre-tokenizer of a `tokenizer.json` by.
///
/// `architecture` is `architectures[0]` of config.json: it decides between names that mean the same splits.
pub(super) fn identify(tokenizer_json: &Json, architecture: &str) -> Result<&'static str> {
    let found = &tokenizer_json["pre_tokenizer"];
    let ignore_merges = tokenizer_json["model"]["ignore_merges"].as_bool().unwrap_or(false);
    let patterns = Patterns::of(found)?;
    let steps = patterns.steps(found)?;
    let rows: Vec<_> = TABLE.iter().filter(|row| row.steps == steps).collect();
    ensure!(!rows.is_empty(), "llama.cpp has no name for its pre-tokenizer: `{found}`");
    for (prefix, name) in BY_ARCHITECTURE {
        if architecture.starts_with(prefix) && rows.iter().any(|row| row.names.contains(name)) {
            return Ok(name);
        }
    }
    // With one row the merge flag may differ: llama.cpp then merges as the name says, as it does for its own files.
    let row = rows.iter().find(|row| row.ignore_merges == ignore_merges).unwrap_or(&rows[0]);
    Ok(row.names[0])
}

/// The regexes of a JSON pre-tokenizer, owned, so that steps can borrow them.
struct Patterns(Vec<String>);

impl Patterns {
    fn of(pre_tokenizer: &Json) -> Result<Self> {
        let patterns = sequence(pre_tokenizer)
            .iter()
            .filter(|step| step["type"] == "Split")
            .map(|step| {
                let pattern = &step["pattern"];
                let regex = pattern["Regex"].as_str().or(pattern["String"].as_str()).unwrap_or_default();
                // Line breaks are sometimes written raw.
                regex.replace('\n', r"\n").replace('\r', r"\r")
            })
            .collect();
        Ok(Self(patterns))
    }

    fn steps(&self, pre_tokenizer: &Json) -> Result<Vec<Step<'_>>> {
        let mut steps = Vec::new();
        let mut patterns = self.0.iter();
        for step in sequence(pre_tokenizer) {
            match step["type"].as_str().unwrap_or_default() {
                "Split" => {
                    // "Isolated" keeps every piece; "Removed" with invert keeps only matches, which is the same
                    // thing for a regex that matches everywhere.
                    let behavior = step["behavior"].as_str().unwrap_or_default();
                    let invert = step["invert"].as_bool().unwrap_or(false);
                    if !(behavior == "Isolated" || behavior == "Removed" && invert) {
                        bail!("llama.cpp has no name for its pre-tokenizer: `{step}`");
                    }
                    steps.push(Step::Split(patterns.next().expect("one pattern per Split")));
                }
                "Digits" => {
                    steps.push(Step::Digits { one_by_one: step["individual_digits"].as_bool().unwrap_or(false) })
                }
                "Punctuation" => steps.push(Step::Punctuation),
                "ByteLevel" if step["use_regex"].as_bool().unwrap_or(true) => steps.push(Step::Gpt2),
                "ByteLevel" => {}
                _ => bail!("llama.cpp has no name for its pre-tokenizer: `{step}`"),
            }
        }
        Ok(steps)
    }
}

/// The parts of a `Sequence`, or the one part itself.
fn sequence(pre_tokenizer: &Json) -> &[Json] {
    match pre_tokenizer["pretokenizers"].as_array() {
        Some(parts) => parts,
        None if pre_tokenizer.is_null() => &[],
        None => std::slice::from_ref(pre_tokenizer),
    }
}

impl PreTokenizer {
    /// The `pre_tokenizer` object of a `tokenizer.json` with these steps.
    pub(super) fn to_json(&self) -> Json {
        let mut parts: Vec<Json> = self.steps.iter().map(step_json).collect();
        if !self.steps.contains(&Step::Gpt2) {
            parts.push(byte_level(false));
        }
        json!({ "type": "Sequence", "pretokenizers": parts })
    }
}

fn step_json(step: &Step) -> Json {
    match step {
        Step::Split(regex) => {
            json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
        }
        Step::Digits { one_by_one } => json!({ "type": "Digits", "individual_digits": one_by_one }),
        Step::Punctuation => json!({ "type": "Punctuation", "behavior": "Contiguous" }),
        Step::Gpt2 => byte_level(true),
    }
}

fn byte_level(use_regex: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_again_from_its_own_json() {
        for row in TABLE {
            let file = json!({ "pre_tokenizer": row.to_json(), "model": { "ignore_merges": row.ignore_merges } });
            let architecture =
                BY_ARCHITECTURE.iter().find(|(_, name)| *name == row.names[0]).map_or("LlamaForCausalLM", |(a, _)| a);
            assert_eq!(identify(&file, architecture).unwrap(), row.names[0]);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().flat_map(|row| row.names).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_row_builds() {
        for row in TABLE {
            serde_json::from_value::<tokenizers::PreTokenizerWrapper>(row.to_json())
                .unwrap_or_else(|e| panic!("{}: {e}", row.names[0]));
        }
    }

    #[test]
    fn an_unknown_regex_is_named_in_the_error() {
        let file = json!({ "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "x+" }, "behavior": "Isolated", "invert": false } });
        let error = identify(&file, "LlamaForCausalLM").unwrap_err().to_string();
        assert!(error.contains("x+"), "{error}");
    }
}
