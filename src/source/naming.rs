//! Names of models taken apart: `Qwen/Qwen3-8B-Instruct` is of Qwen, based on Qwen3, of size 8B, finetuned to instruct.
//! The rules are those of llama.cpp's converter (`gguf-py/gguf/metadata.py`, `get_model_id_components`).

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::weights::Tensor;
use regex::Regex;

/// The parts of a model's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameParts {
    pub(super) name: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) basename: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) version: Option<String>,
    pub(super) size_label: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Basename,
    SizeLabel,
    Finetune,
    Version,
    Type,
}

struct Part {
    text: String,
    kinds: BTreeSet<Kind>,
}

impl Part {
    fn is(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(&format!("(?i)^(?:{pattern})$")).expect("the pattern is a constant")
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| regex(r"(v|iter)?\d+([.]\d+)*"));
static TYPE: LazyLock<Regex> = LazyLock::new(|| regex(r"i?q\d(_\w)*|b?fp?(16|32)"));
static SIZE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"((A|\d+x)?\d+([._]\d+)?[KMBT]\d?|small|mini|medium|large|x?xl)"));
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| regex("chat|instruct|vision|lora"));
static UNTITLED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(v\d+(?:\.\d+)*|\d.*)$").expect("the pattern is a constant"));

impl NameParts {
    /// Takes a name apart, with or without an organization before it. `parameters` is the number of weights.
    pub(super) fn of(id: &str, parameters: u64) -> NameParts {
        if id.contains(' ') {
            return NameParts { name: Some(id.to_owned()), ..NameParts::default() };
        }
        let (organization, name) = match id.split_once('/') {
            Some((organization, name)) => (Some(organization), name),
            None => (None, id),
        };
        // `./model` has no organization
        let organization = organization.filter(|organization| !organization.starts_with('.'));
        let mut parts: Vec<Part> = name
            .split('-')
            .filter(|text| !text.is_empty())
            .map(|text| Part { text: text.to_owned(), kinds: BTreeSet::new() })
            .collect();
        for (place, part) in parts.iter_mut().enumerate() {
            annotate(part, place, parameters);
        }
        prefer_numbers(&mut parts);
        mark_basename(&mut parts);
        let joined = |wanted: &dyn Fn(&Part) -> bool| {
            let texts: Vec<&str> = parts.iter().filter(|part| wanted(part)).map(|part| part.text.as_str()).collect();
            Some(texts.join("-")).filter(|text| !text.is_empty())
        };
        let finetune = joined(&|part| part.is(Kind::Finetune));
        let version = joined(&|part| part.is(Kind::Version) && !part.is(Kind::Basename));
        let size_label = unique_sizes(&parts);
        let ambiguous = finetune.is_none() && version.is_none() && size_label.is_none();
        NameParts {
            name: Some(name.to_owned()),
            organization: organization.map(str::to_owned),
            basename: joined(&|part| part.is(Kind::Basename)).filter(|_| !ambiguous),
            finetune,
            version,
            size_label,
        }
    }
}

/// Says what a part looks like on its own.
fn annotate(part: &mut Part, place: usize, parameters: u64) {
    if VERSION.is_match(&part.text) {
        part.kinds.insert(Kind::Version);
    } else if TYPE.is_match(&part.text) {
        part.kinds.insert(Kind::Type);
        part.text = part.text.to_uppercase();
    } else if place > 0 && SIZE.is_match(&part.text) {
        part.text = normal_size(&part.text);
        if is_far_off(&part.text, parameters) {
            // more likely the length of a context
            part.kinds.insert(Kind::Finetune);
            part.text = with_last(&part.text, |last| last.to_ascii_lowercase());
        } else {
            part.kinds.insert(Kind::SizeLabel);
        }
    } else if place > 0 && FINETUNE.is_match(&part.text) {
        part.kinds.insert(Kind::Finetune);
    }
}

/// `7b` is `7B`, `1_8b` is `1.8B`, and `7b1` is `7.1B`.
fn normal_size(text: &str) -> String {
    let mut chars: Vec<char> = text.replace('_', ".").chars().collect();
    if let &[.., suffix, last] = chars.as_slice()
        && last.is_ascii_digit()
    {
        chars.truncate(chars.len() - 2);
        chars.extend(['.', last, suffix]);
    }
    if let [.., before, last] = chars.as_mut_slice()
        && before.is_ascii_digit()
        && matches!(last, 'k' | 'm' | 'b' | 't')
    {
        last.make_ascii_uppercase();
    }
    chars.into_iter().collect()
}

fn with_last(text: &str, change: impl Fn(char) -> char) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    if let Some(last) = chars.last_mut() {
        *last = change(*last);
    }
    chars.into_iter().collect()
}

/// Whether a size like `8B` is nowhere near the number of weights. Sizes that are not a number are taken as they are.
fn is_far_off(size: &str, parameters: u64) -> bool {
    let mut chars = size.chars();
    let Some(suffix) = chars.next_back() else { return false };
    let Ok(number) = chars.as_str().parse::<f64>() else { return false };
    let power = " KMBT".find(suffix).map_or(-1, |place| place as i32);
    let size = number * 1000f64.powi(power);
    parameters != 0 && (size - parameters as f64).abs() > (u128::from(parameters) * 7 / 8) as f64
}

/// Drops `small` and the like where a size in numbers is there too.
fn prefer_numbers(parts: &mut [Part]) {
    let has_number =
        parts.iter().any(|part| part.is(Kind::SizeLabel) && part.text.contains(|letter: char| letter.is_numeric()));
    if has_number {
        for part in parts.iter_mut().filter(|part| part.text.chars().all(char::is_alphabetic)) {
            part.kinds.remove(&Kind::SizeLabel);
        }
    }
}

/// The basename is what comes first and is nothing else; what is left over is a finetune.
fn mark_basename(parts: &mut [Part]) {
    let mut at_start = true;
    for part in parts.iter_mut() {
        let is_word = part.kinds.is_empty() && part.text.starts_with(char::is_alphabetic);
        if at_start && (is_word || part.is(Kind::Version)) {
            part.kinds.insert(Kind::Basename);
        } else {
            at_start = false;
            if part.kinds.is_empty() {
                part.kinds.insert(Kind::Finetune);
            }
        }
    }
    // a version at the end of the name is not part of the basename
    for part in parts.iter_mut().rev() {
        if part.is(Kind::Basename) && part.kinds.len() > 1 {
            part.kinds.remove(&Kind::Basename);
        } else {
            break;
        }
    }
}

fn unique_sizes(parts: &[Part]) -> Option<String> {
    let mut sizes: Vec<&str> = Vec::new();
    for part in parts.iter().filter(|part| part.is(Kind::SizeLabel)) {
        if !sizes.contains(&part.text.as_str()) {
            sizes.push(&part.text);
        }
    }
    Some(sizes.join("-")).filter(|text| !text.is_empty())
}

/// A name for people: words in lower case get a capital, unless they are versions or numbers.
pub(super) fn title(id: &str) -> String {
    let words = id.trim().replace('-', " ");
    let titled = words
        .split_whitespace()
        .map(|word| if is_lower(word) && !UNTITLED.is_match(word) { title_word(word) } else { word.to_owned() });
    titled.collect::<Vec<_>>().join(" ")
}

fn is_lower(word: &str) -> bool {
    word.contains(char::is_lowercase) && !word.contains(char::is_uppercase)
}

/// A capital wherever a letter does not follow a letter, as Python's `str.title`.
fn title_word(word: &str) -> String {
    let mut titled = String::new();
    let mut after_letter = false;
    for letter in word.chars() {
        if after_letter {
            titled.push(letter)
        } else {
            titled.extend(letter.to_uppercase())
        }
        after_letter = letter.is_alphabetic();
    }
    titled
}

/// The number of weights of a model.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parameters {
    pub(super) total: u64,
    /// Those of a model with one expert in each layer.
    of_one_expert: u64,
    /// In a layer, on average.
    experts: u64,
}

impl Parameters {
    pub(super) fn of(tensors: &[Tensor]) -> Parameters {
        let stacks = || tensors.iter().filter(|tensor| tensor.matrices() > 1 && tensor.name.contains("_exps."));
        let total = tensors.iter().map(Tensor::elements).sum();
        let of_first: u64 = stacks().map(|tensor| tensor.elements() / tensor.matrices() as u64).sum();
        let count: u64 = stacks().map(|tensor| tensor.matrices() as u64).sum();
        Parameters {
            total,
            of_one_expert: total - stacks().map(Tensor::elements).sum::<u64>() + of_first,
            experts: count / (stacks().count() as u64).max(1),
        }
    }

    /// For people: `8.0B`, `14B`, `494M`, and with experts `8x7.2B` (`gguf-py/gguf/utility.py`, `size_label`).
    pub(super) fn label(self) -> String {
        match self.experts {
            0 => size_label(self.total),
            experts => format!("{experts}x{}", size_label(self.of_one_expert)),
        }
    }
}

fn size_label(parameters: u64) -> String {
    let parameters = parameters as f64;
    let (scaled, suffix) = match parameters {
        p if p > 1e12 => (p * 1e-12, "T"),
        p if p > 1e9 => (p * 1e-9, "B"),
        p if p > 1e6 => (p * 1e-6, "M"),
        p => (p * 1e-3, "K"),
    };
    // two digits at least, not counting a leading zero
    let whole = scaled.round_ties_even();
    let digits = if whole == 0.0 { 0 } else { format!("{whole}").len() };
    format!("{scaled:.*}{suffix}", 2usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(id: &str, parameters: u64) -> [Option<String>; 6] {
        let NameParts { name, organization, basename, finetune, version, size_label } = NameParts::of(id, parameters);
        [name, organization, basename, finetune, version, size_label]
    }

    fn texts(texts: [&str; 6]) -> [Option<String>; 6] {
        texts.map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()))
    }

    // Examples from llama.cpp's own tests (gguf-py/tests/test_metadata.py), and from running its function.
    #[test]
    fn names_come_apart_as_the_converter_has_it() {
        let cases = [
            (
                "Mistral/Mixtral-8x7B-Instruct-v0.1",
                0,
                ["Mixtral-8x7B-Instruct-v0.1", "Mistral", "Mixtral", "Instruct", "v0.1", "8x7B"],
            ),
            ("Mixtral", 0, ["Mixtral", "", "", "", "", ""]),
            ("Mixtral-8x7B", 0, ["Mixtral-8x7B", "", "Mixtral", "", "", "8x7B"]),
            ("NousResearch/Meta-Llama-3-8B", 0, ["Meta-Llama-3-8B", "NousResearch", "Meta-Llama-3", "", "", "8B"]),
            ("Qwen1.5-MoE-A2.7B-Chat", 0, ["Qwen1.5-MoE-A2.7B-Chat", "", "Qwen1.5-MoE", "Chat", "", "A2.7B"]),
            ("Qwen2-57B-A14B-Instruct", 0, ["Qwen2-57B-A14B-Instruct", "", "Qwen2", "Instruct", "", "57B-A14B"]),
            ("bigscience/bloom-7b1-petals", 0, ["bloom-7b1-petals", "bigscience", "bloom", "petals", "", "7.1B"]),
            ("google/gemma-2b", 0, ["gemma-2b", "google", "gemma", "", "", "2B"]),
            (
                "llama3-8b-1048k-instruct",
                8_000_000_000,
                ["llama3-8b-1048k-instruct", "", "llama3", "1048k-instruct", "", "8B"],
            ),
            ("tiny-llama", 8_397_056, ["tiny-llama", "", "", "", "", ""]),
            ("a model name", 0, ["a model name", "", "", "", "", ""]),
        ];
        for (id, parameters, expected) in cases {
            assert_eq!(parts(id, parameters), texts(expected), "{id}");
        }
    }

    #[test]
    fn titles_are_python_titles() {
        assert_eq!(title("tiny-llama"), "Tiny Llama");
        assert_eq!(title("Qwen3-8B-instruct-v0.1"), "Qwen3 8B Instruct v0.1");
        assert_eq!(title("llama3b-chat"), "Llama3B Chat");
        assert_eq!(title("Mixtral-8x7B"), "Mixtral 8x7B");
    }

    #[test]
    fn size_labels_have_two_digits() {
        assert_eq!(size_label(8_397_056), "8.4M");
        assert_eq!(size_label(5_968_512), "6.0M");
        assert_eq!(size_label(8_030_261_312), "8.0B");
        assert_eq!(size_label(70_553_706_496), "71B");
        assert_eq!(size_label(494_032_768), "494M");
        assert_eq!(size_label(480), "0.48K");
    }
}
