//! Strings of values, which GGUF does not promise to be UTF-8: tokens of some models are single bytes of a character.
//!
//! A byte that is part of no character is kept as one of the last private code points of Unicode, and those themselves
//! as their four bytes, so that any string is written as it was read.

use super::value::Scalar;

/// Byte 0x80 is kept as 0x80 code points after this, and so on to 0xff.
const BASE: u32 = 0x10_ff00;

/// The text of a string's bytes.
pub(super) fn from_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match kept_byte(c) {
                None => text.push(c),
                Some(_) => c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| text.push(keep(byte))),
            }
        }
        chunk.invalid().iter().for_each(|&byte| text.push(keep(byte)));
    }
    text
}

/// Bytes that [`put`] appends.
pub(super) fn size(text: &str) -> u64 {
    let kept = text.chars().filter(|&c| kept_byte(c).is_some()).count();
    8 + (text.len() - 3 * kept) as u64
}

/// Appends the length in bytes and the bytes that `text` was read from.
pub(super) fn put(text: &str, out: &mut Vec<u8>) {
    (size(text) - 8).put(out);
    for c in text.chars() {
        match kept_byte(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn keep(byte: u8) -> char {
    char::from_u32(BASE + u32::from(byte)).expect("at most the last code point")
}

fn kept_byte(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(BASE)?).ok().filter(|byte| !byte.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        let cases: [&[u8]; 7] = [
            b"",
            b"plain \xc3\xa9",
            b"\xe2\x96",
            b"a\xffb\x80",
            &all,
            "\u{10ff80}\u{10ffff}\u{10ff7f}".as_bytes(),
            b"\xf4\x8f\xbe\x80\xf4\x8f",
        ];
        for bytes in cases {
            let text = from_bytes(bytes);
            let mut out = Vec::new();
            put(&text, &mut out);
            assert_eq!((out.len() as u64, &out[8..]), (size(&text), bytes));
            assert_eq!(out[..8], (bytes.len() as u64).to_le_bytes());
        }
        assert_eq!(from_bytes("é€😀\u{10ff7f}".as_bytes()), "é€😀\u{10ff7f}");
        assert_eq!(from_bytes(b"\xe2\x96").chars().count(), 2);
    }
}
