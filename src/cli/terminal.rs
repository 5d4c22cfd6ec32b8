//! Everything that people read passes here: control characters of files are made visible, and a stream that is gone costs
//! no work.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use console::Term;
use indicatif::TermLike;

/// `text` with every character escaped that acts on a terminal or on the order of what stands there, line breaks included.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match acts(c) {
            // writing to a String cannot fail
            true => _ = write!(shown, "{}", c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Control characters, and marks that break or reorder lines.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// [`visible`], but for the line breaks between our own lines.
pub fn visible_lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

/// JSON without raw characters of this kind. They stand in strings only, where JSON has an escape for each.
pub fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match acts(c) {
            // all of them are in the first plane
            true => _ = write!(shown, "\\u{:04x}", u32::from(c)),
            false => shown.push(c),
        }
    }
    shown
}

/// A line on stderr. Nobody may be left to read it.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", visible(line));
}

/// Text on stdout. A reader that went away (`| head`) is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Stderr for bars, which panic where it fails.
#[derive(Debug)]
pub struct Screen(Term);

impl Screen {
    pub fn stderr() -> Screen {
        Screen(Term::buffered_stderr())
    }
}

/// What cannot be drawn is not drawn.
fn drawn(_: io::Result<()>) -> io::Result<()> {
    Ok(())
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        drawn(self.0.move_cursor_up(n))
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        drawn(self.0.move_cursor_down(n))
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        drawn(self.0.move_cursor_right(n))
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        drawn(self.0.move_cursor_left(n))
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        drawn(self.0.write_line(line))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        drawn(self.0.write_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        drawn(self.0.clear_line())
    }

    fn flush(&self) -> io::Result<()> {
        drawn(self.0.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        assert_eq!(visible("\u{1b}[31mred\u{7}"), "\\u{1b}[31mred\\u{7}");
        assert_eq!(visible("a\r\nb\tc\0"), "a\\r\\nb\\tc\\u{0}");
        // the eight-bit control sequence introducer, a reversal of the line, a byte order mark
        assert_eq!(visible("\u{9b}31m \u{202e}gpj.exe \u{feff}"), "\\u{9b}31m \\u{202e}gpj.exe \\u{feff}");
        assert_eq!(visible_lines("a\nb\u{1b}c\n"), "a\nb\\u{1b}c\n");
        let text = "\u{9b}31m\u{1b}\u{7f} \u{202e}";
        let shown = json(&serde_json::to_string(text).unwrap());
        assert_eq!(shown, r#""\u009b31m\u001b\u007f \u202e""#);
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        let plain = "Größe 模型 🙂 \\n `x`";
        assert!(matches!(visible(plain), Cow::Borrowed(text) if text == plain));
    }
}
