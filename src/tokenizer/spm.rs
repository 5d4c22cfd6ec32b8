//! SentencePiece vocabularies: the greedy merge by score, and the fields we need of a `tokenizer.model`.
//!
//! The merge follows llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_spm`): of all neighbours whose concatenation is a
//! token, the pair with the highest score merges first, the leftmost of equals; what is left over becomes byte tokens.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use anyhow::{Result, bail, ensure};

use super::vocab::TokenType;

/// U+2581, which stands for a space in SentencePiece pieces.
pub(super) const SPACE: &str = "\u{2581}";

/// Splits text fragments into the pieces of a SentencePiece vocabulary.
pub(super) struct Spm {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
}

#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

struct Merge {
    score: f32,
    left: Reverse<usize>,
    right: usize,
    len: usize,
}

impl Ord for Merge {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(self.left.cmp(&other.left))
    }
}
impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Merge {}

impl Spm {
    pub(super) fn new(tokens: &[String], scores: &[f32], unknown: Option<u32>) -> Self {
        let ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
        let bytes = std::array::from_fn(|byte| {
            let one = [byte as u8];
            let name = format!("<0x{byte:02X}>");
            ids.get(&name).or_else(|| std::str::from_utf8(&one).ok().and_then(|s| ids.get(s))).copied()
        });
        Self { ids, scores: scores.to_vec(), bytes, unknown }
    }

    /// Appends the ids of `text`, in which spaces are already U+2581.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (start, c) in text.char_indices() {
            let index = symbols.len();
            symbols.push(Symbol { start, len: c.len_utf8(), prev: index.checked_sub(1), next: Some(index + 1) });
        }
        let Some(last) = symbols.last_mut() else { return };
        last.next = None;

        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            self.offer(text, &symbols, Some(right - 1), Some(right), &mut queue);
        }
        while let Some(Merge { left: Reverse(left), right, len, .. }) = queue.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            // One of the two has merged with another neighbour since.
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            symbols[left].len = len;
            symbols[left].next = b.next;
            symbols[right].len = 0;
            if let Some(next) = b.next {
                symbols[next].prev = Some(left);
            }
            self.offer(text, &symbols, a.prev, Some(left), &mut queue);
            self.offer(text, &symbols, Some(left), b.next, &mut queue);
        }

        let mut at = Some(0);
        while let Some(index) = at {
            let symbol = symbols[index];
            self.emit(&text[symbol.start..symbol.start + symbol.len], out);
            at = symbol.next;
        }
    }

    fn offer(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: Option<usize>,
        right: Option<usize>,
        queue: &mut BinaryHeap<Merge>,
    ) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let len = symbols[left].len + symbols[right].len;
        let start = symbols[left].start;
        if let Some(&id) = self.ids.get(&text[start..start + len]) {
            let score = self.scores.get(id as usize).copied().unwrap_or(0.0);
            queue.push(Merge { score, left: Reverse(left), right, len });
        }
    }

    fn emit(&self, piece: &str, out: &mut Vec<u32>) {
        match self.ids.get(piece) {
            Some(&id) => out.push(id),
            None => out.extend(piece.bytes().filter_map(|byte| self.bytes[byte as usize].or(self.unknown))),
        }
    }
}

/// The vocabulary of a SentencePiece `tokenizer.model`.
#[derive(Debug, PartialEq)]
pub(super) struct ModelFile {
    pub(super) pieces: Vec<(String, f32, TokenType)>,
    pub(super) add_dummy_prefix: bool,
}

impl ModelFile {
    /// Reads the protobuf `sentencepiece.ModelProto`: pieces (field 1), trainer (2) and normalizer (3).
    ///
    /// Errors: not such a file, or a model type other than BPE.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut file = Self { pieces: Vec::new(), add_dummy_prefix: true };
        let mut model_type = 1; // the format's default: unigram
        for field in fields(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => file.pieces.push(parse_piece(piece)?),
                (2, Wire::Bytes(trainer)) => {
                    for field in fields(trainer) {
                        if let (3, Wire::Number(n)) = field? {
                            model_type = n;
                        }
                    }
                }
                (3, Wire::Bytes(normalizer)) => {
                    for field in fields(normalizer) {
                        if let (3, Wire::Number(n)) = field? {
                            file.add_dummy_prefix = n != 0;
                        }
                    }
                }
                _ => {}
            }
        }
        ensure!(!file.pieces.is_empty(), "it holds no SentencePiece pieces");
        match model_type {
            2 => Ok(file),
            1 => bail!("it is a SentencePiece unigram model, and only BPE ones are supported"),
            _ => bail!("it is a SentencePiece model of an unsupported kind: `{model_type}`"),
        }
    }
}

fn parse_piece(bytes: &[u8]) -> Result<(String, f32, TokenType)> {
    let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
    for field in fields(bytes) {
        match field? {
            (1, Wire::Bytes(b)) => text = String::from_utf8(b.to_vec())?,
            (2, Wire::Fixed32(v)) => score = f32::from_bits(v),
            (3, Wire::Number(n)) => kind = n,
            _ => {}
        }
    }
    let kind = match kind {
        2 => TokenType::Unknown,
        3 => TokenType::Control,
        4 => TokenType::UserDefined,
        5 => TokenType::Unused,
        6 => TokenType::Byte,
        _ => TokenType::Normal,
    };
    Ok((text, score, kind))
}

enum Wire<'a> {
    Number(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a protobuf message: (field number, value).
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u64, Wire<'_>)>> {
    std::iter::from_fn(move || {
        (!bytes.is_empty()).then(|| {
            let field = next_field(&mut bytes);
            if field.is_err() {
                bytes = &[];
            }
            field
        })
    })
}

fn next_field<'a>(bytes: &mut &'a [u8]) -> Result<(u64, Wire<'a>)> {
    let key = varint(bytes)?;
    let value = match key & 7 {
        0 => Wire::Number(varint(bytes)?),
        1 => {
            take(bytes, 8)?;
            Wire::Other
        }
        2 => {
            let len = varint(bytes)?;
            Wire::Bytes(take(bytes, usize::try_from(len)?)?)
        }
        5 => {
            let word = take(bytes, 4)?;
            Wire::Fixed32(u32::from_le_bytes(word.try_into().expect("four bytes")))
        }
        _ => bail!("it is not a SentencePiece model"),
    };
    Ok((key >> 3, value))
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("it is not a SentencePiece model")
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    ensure!(count <= bytes.len(), "it is cut short");
    let (head, tail) = bytes.split_at(count);
    *bytes = tail;
    Ok(head)
}
