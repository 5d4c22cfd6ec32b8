//! Calibration files: plain text, JSON lines, other JSON, tables, folders of them.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value as Json};

use super::files::{self, Format};
use super::shapes::{Content, Found, Sample};

/// Reads one path: a file, or every known file of a folder, sorted by name.
pub(super) fn read(path: &Path) -> Result<Vec<Sample>> {
    let at = |path: &Path| format!("cannot read calibration text: `{}`", path.display());
    if !path.is_dir() {
        return read_file(path).with_context(|| at(path));
    }
    let mut samples = Vec::new();
    for file in files::list(path).with_context(|| at(path))? {
        samples.extend(read_file(&file).with_context(|| at(&file))?);
    }
    Ok(samples)
}

/// The text of a file that holds one document, by its name; `None` for other files.
///
/// Errors: it cannot be read, or is no text.
pub fn plain_text(path: &Path) -> Result<Option<String>> {
    if path.is_dir() || !matches!(Format::of(path), None | Some(Format::Plain)) {
        return Ok(None);
    }
    files::read(path).map(Some)
}

/// Anything that is not JSON or a table by its name is plain text.
fn read_file(path: &Path) -> Result<Vec<Sample>> {
    let text = files::read(path)?;
    let domain = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = format!("`{}`", path.display());
    if text.trim().is_empty() {
        log::info!("{name} is empty");
        return Ok(Vec::new());
    }
    match Format::of(path).unwrap_or(Format::Plain) {
        Format::Json => Ok(told(parse_json(&text, &domain, &name)?)),
        Format::Table(separator) => Ok(told(parse_table(&text, separator, &domain, &name)?)),
        Format::Plain => {
            if let Some(at) = text.find('\0') {
                log::warn!("{name}: line {}: it holds zero bytes", line_of(&text, at));
            }
            Ok(vec![Sample { domain, place: name, content: Content::Text(text) }])
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Says once for each kind what was left out.
fn told(found: Found) -> Vec<Sample> {
    let mut notes = found.notes.as_slice();
    let mut said: Vec<&str> = Vec::new();
    while let [(what, place), rest @ ..] = notes {
        notes = rest;
        if said.contains(&what.as_str()) {
            continue;
        }
        said.push(what);
        let more = match rest.iter().filter(|(other, _)| other == what).count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        log::warn!("{place}: {what} is left out{more}");
    }
    found.samples
}

/// JSON lines, where the first line is a value; otherwise values that span lines.
fn parse_json(text: &str, domain: &str, name: &str) -> Result<Found> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if crate::json::parse(first).is_ok() {
        return lines(text, domain, name);
    }
    let values = crate::json::parse_stream(text)?;
    let mut found = Found::default();
    for (index, value) in values.iter().enumerate() {
        let number = format!("value {}", index + 1);
        let many = values.len() > 1;
        let place = if many { format!("{name}: {number}") } else { name.to_owned() };
        let added = found.add(value, domain, &place);
        if many {
            added.with_context(|| number)?
        } else {
            added?
        };
    }
    Ok(found)
}

/// JSON lines; empty lines are skipped.
pub(super) fn lines(text: &str, domain: &str, name: &str) -> Result<Found> {
    let mut found = Found::default();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = format!("line {}", index + 1);
        // of a line of its own, the parser knows only the column
        let json = crate::json::parse(line)
            .map_err(|error| anyhow!("{at}: {}", error.to_string().replace(" at line 1 column ", ", column ")))?;
        found.add(&json, domain, &format!("{name}: {at}")).with_context(|| at)?;
    }
    Ok(found)
}

/// A table whose first line names the columns; each row is a document as an object would be.
fn parse_table(text: &str, separator: u8, domain: &str, name: &str) -> Result<Found> {
    let mut table = csv::ReaderBuilder::new().delimiter(separator).from_reader(text.as_bytes());
    let columns = table.headers()?.clone();
    let mut found = Found::default();
    for row in table.records() {
        let row = row?;
        let at = format!("line {}", row.position().map_or(0, csv::Position::line));
        let cells = columns.iter().zip(&row).map(|(column, cell)| {
            let cell = if cell.is_empty() { Json::Null } else { cell.into() };
            (column.trim().to_owned(), cell)
        });
        let row = Json::Object(cells.collect::<Map<_, _>>());
        found.add(&row, domain, &format!("{name}: {at}")).with_context(|| at)?;
    }
    Ok(found)
}
