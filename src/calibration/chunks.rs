//! Token chunks of equal length, cut from documents.

use std::ops::Range;

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::Document;
use crate::tokenizer::Tokenizer;

/// Domain of chunks made from documents whose own domain does not fill one.
const MIXED: &str = "mixed";

/// Sequences of `ctx` tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunks {
    /// Tokens per chunk.
    pub ctx: usize,
    /// `[chunks, ctx]`, as the model sees them.
    pub tokens: Vec<u32>,
    /// Per chunk, an index into `domains`.
    pub domain: Vec<u16>,
    pub domains: Vec<String>,
    /// The token that BOS took the place of at the start of each chunk; the same token where nothing was replaced.
    pub first: Vec<u32>,
    /// blake3 of the token ids (little-endian u32), in hex.
    pub hash: String,
}

impl Chunks {
    /// Cuts documents into chunks: per domain, one after the other; the tail that does not fill a chunk is dropped.
    /// Domains too small for a chunk are pooled.
    ///
    /// Chunks alternate between the domains, so that the first `limit` of them are spread evenly. With a vocabulary
    /// that adds BOS, every document starts with it and it replaces the first token of each chunk, as in llama.cpp.
    ///
    /// Errors: fewer tokens than one chunk.
    pub fn cut(documents: &[Document], tokenizer: &Tokenizer, ctx: usize, limit: Option<usize>) -> Result<Self> {
        check(ctx, limit)?;
        let mut domains: Vec<(String, Vec<u32>)> = Vec::new();
        let encoded: Vec<Vec<u32>> =
            documents.par_iter().map(|document| encode(document, tokenizer)).collect::<Result<_>>()?;
        for (document, tokens) in documents.iter().zip(encoded) {
            match domains.iter_mut().find(|(name, _)| *name == document.domain) {
                Some((_, stream)) => stream.extend(tokens),
                None => domains.push((document.domain.clone(), tokens)),
            }
        }
        let total: usize = domains.iter().map(|(_, stream)| stream.len()).sum();
        pool_small(&mut domains, ctx);
        ensure!(!domains.is_empty(), "the calibration text has {total} tokens, fewer than one chunk of {ctx}");
        let order = alternate(&domains, ctx, limit);
        let tokens: Vec<u32> = order
            .iter()
            .flat_map(|&(domain, chunk)| &domains[domain].1[chunk * ctx..(chunk + 1) * ctx])
            .copied()
            .collect();
        let domain = order.iter().map(|&(domain, _)| domain as u16).collect();
        let names = domains.into_iter().map(|(name, _)| name).collect();
        Ok(Self::finish(tokens, domain, names, tokenizer, ctx))
    }

    /// Chunks of both texts in turn, for as long as there are two, at most `limit` of them: each text has half of any prefix.
    /// Domains of the same name are one.
    pub fn alternate(self, other: Self, limit: Option<usize>) -> Result<Self> {
        ensure!(self.ctx == other.ctx, "chunks of {} and {} tokens cannot be mixed", self.ctx, other.ctx);
        let mut domains = self.domains.clone();
        let places: Vec<u16> = (other.domains.iter())
            .map(|name| {
                let place = domains.iter().position(|known| known == name).unwrap_or(domains.len());
                if place == domains.len() {
                    domains.push(name.clone());
                }
                place as u16
            })
            .collect();
        let in_turn = (0..self.len().max(other.len())).flat_map(|at| [(&self, at), (&other, at)]);
        let order: Vec<(&Self, usize)> =
            in_turn.filter(|(text, at)| *at < text.len()).take(limit.unwrap_or(usize::MAX)).collect();
        let tokens: Vec<u32> = order.iter().flat_map(|(text, at)| text.chunk(*at)).copied().collect();
        let place = |text: &Self, at: usize| match std::ptr::eq(text, &other) {
            true => places[usize::from(text.domain[at])],
            false => text.domain[at],
        };
        Ok(Self {
            ctx: self.ctx,
            domain: order.iter().map(|(text, at)| place(text, *at)).collect(),
            first: order.iter().map(|(text, at)| text.first[*at]).collect(),
            hash: hash(&tokens),
            tokens,
            domains,
        })
    }

    /// Chunks of one plain text exactly as llama-perplexity makes them of the file given with `-f`: one stream with
    /// special tokens added and none parsed, one trailing line break removed, cut every `ctx` tokens.
    ///
    /// Errors: fewer than two chunks of tokens (llama-perplexity refuses those too).
    pub fn from_text_stream(
        text: &str,
        domain: &str,
        tokenizer: &Tokenizer,
        ctx: usize,
        limit: Option<usize>,
    ) -> Result<Self> {
        check(ctx, limit)?;
        let mut tokens = tokenizer.encode(text.strip_suffix('\n').unwrap_or(text), true, false)?;
        ensure!(tokens.len() >= 2 * ctx, "the text has {} tokens, fewer than two chunks of {ctx}", tokens.len());
        let count = (tokens.len() / ctx).min(limit.unwrap_or(usize::MAX));
        tokens.truncate(count * ctx);
        Ok(Self::finish(tokens, vec![0; count], vec![domain.to_string()], tokenizer, ctx))
    }

    fn finish(mut tokens: Vec<u32>, domain: Vec<u16>, domains: Vec<String>, tokenizer: &Tokenizer, ctx: usize) -> Self {
        let first = tokens.iter().step_by(ctx).copied().collect();
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos()) {
            tokens.iter_mut().step_by(ctx).for_each(|token| *token = bos);
        }
        let hash = hash(&tokens);
        Self { ctx, tokens, domain, domains, first, hash }
    }

    /// The first `count` chunks, all of them at most; they are spread evenly over the domains.
    pub fn prefix(&self, count: usize) -> Self {
        self.range(0..count.clamp(1, self.len()))
    }

    /// The chunks from `first` on, `count` of them at most.
    pub fn after(&self, first: usize, count: usize) -> Self {
        self.range(first.min(self.len())..(first + count).min(self.len()))
    }

    fn range(&self, chunks: Range<usize>) -> Self {
        let tokens = self.tokens[chunks.start * self.ctx..chunks.end * self.ctx].to_vec();
        let hash = hash(&tokens);
        Self {
            ctx: self.ctx,
            tokens,
            domain: self.domain[chunks.clone()].to_vec(),
            domains: self.domains.clone(),
            first: self.first[chunks].to_vec(),
            hash,
        }
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.domain.len()
    }

    pub fn is_empty(&self) -> bool {
        self.domain.is_empty()
    }

    /// The tokens of one chunk, as the model sees them.
    pub fn chunk(&self, index: usize) -> &[u32] {
        &self.tokens[index * self.ctx..(index + 1) * self.ctx]
    }

    /// How often each of `vocabulary` entries occurs.
    pub fn token_counts(&self, vocabulary: usize) -> Vec<u64> {
        let mut counts = vec![0; vocabulary];
        self.tokens.iter().for_each(|id| counts[*id as usize] += 1);
        counts
    }

    /// All tokens before BOS replaced any, as llama-perplexity writes them to its logits file.
    pub fn original_tokens(&self) -> Vec<u32> {
        let mut tokens = self.tokens.clone();
        tokens.iter_mut().step_by(self.ctx).zip(&self.first).for_each(|(token, &first)| *token = first);
        tokens
    }
}

fn hash(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    blake3::hash(&bytes).to_hex().to_string()
}

fn check(ctx: usize, limit: Option<usize>) -> Result<()> {
    ensure!(ctx >= 2, "the context is too short: `{ctx}`");
    ensure!(limit != Some(0), "the number of chunks must be at least 1");
    Ok(())
}

fn encode(document: &Document, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut tokens = tokenizer.encode(&document.text, false, document.chat)?;
    // A template may have written BOS already.
    if let Some(bos) = tokenizer.bos().filter(|bos| tokenizer.add_bos() && tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    Ok(tokens)
}

fn pool_small(domains: &mut Vec<(String, Vec<u32>)>, ctx: usize) {
    let (full, small): (Vec<_>, Vec<_>) = domains.drain(..).partition(|(_, stream)| stream.len() >= ctx);
    *domains = full;
    let pooled: Vec<u32> = small.into_iter().flat_map(|(_, stream)| stream).collect();
    if pooled.len() >= ctx {
        domains.push((MIXED.to_string(), pooled));
    }
}

/// (domain, chunk of the domain) in round-robin order.
fn alternate(domains: &[(String, Vec<u32>)], ctx: usize, limit: Option<usize>) -> Vec<(usize, usize)> {
    let most = domains.iter().map(|(_, stream)| stream.len() / ctx).max().unwrap_or(0);
    let rounds = (0..most).flat_map(|chunk| (0..domains.len()).map(move |domain| (domain, chunk)));
    let exists = |&(domain, chunk): &(usize, usize)| chunk < domains[domain].1.len() / ctx;
    rounds.filter(exists).take(limit.unwrap_or(usize::MAX)).collect()
}
