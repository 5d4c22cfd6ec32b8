//! Plain text tables: columns as wide as their widest cell, two spaces between them.

use std::fmt;

use super::terminal::visible;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows of cells under a line of titles.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with one cell for each column.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells.iter().map(|cell| visible(cell).into_owned()).collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].chars().count());
        cells.chain([self.columns[column].0.chars().count()]).max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        let titles = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        for row in [&titles].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, align)), width) in row.iter().zip(&self.columns).zip(&widths) {
                match align {
                    Align::Left => line += &format!("{cell:<width$}  "),
                    Align::Right => line += &format!("{cell:>width$}  "),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `12345678` as `12,345,678`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit: `4.70 GiB`.
pub fn bytes(number: u64) -> String {
    let scaled = |shift: u32| number as f64 / f64::from(1u32 << shift);
    match number {
        0..0x400 => format!("{number} B"),
        0x400..0x10_0000 => format!("{:.1} KiB", scaled(10)),
        0x10_0000..0x4000_0000 => format!("{:.2} MiB", scaled(20)),
        _ => format!("{:.2} GiB", scaled(30)),
    }
}

/// A count with a short suffix: `987`, `12.3k`, `4.56M`.
pub fn short(number: f64) -> String {
    let (scaled, suffix) = match number {
        n if n < 1e3 => (n, ""),
        n if n < 1e6 => (n / 1e3, "k"),
        n if n < 1e9 => (n / 1e6, "M"),
        n => (n / 1e9, "G"),
    };
    match scaled {
        n if n >= 100.0 || n.fract() == 0.0 => format!("{n:.0}{suffix}"),
        n if n >= 10.0 => format!("{n:.1}{suffix}"),
        n => format!("{n:.2}{suffix}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("type", Align::Left), ("bytes", Align::Right)]);
        table.row(["Q4_K".into(), "1".into()]);
        table.row(["IQ2_XXS".into(), "123,456".into()]);
        assert_eq!(table.to_string(), "type       bytes\nQ4_K           1\nIQ2_XXS  123,456\n");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1000, 5_225_472].map(grouped), ["0", "999", "1,000", "5,225,472"]);
        assert_eq!([1, 5_225_472, 5_046_586_572].map(bytes), ["1 B", "4.98 MiB", "4.70 GiB"]);
        assert_eq!([7.0, 1.5, 12_345.0, 250e6].map(short), ["7", "1.50", "12.3k", "250M"]);
    }
}
