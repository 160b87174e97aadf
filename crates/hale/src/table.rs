//! Columns for people. Programs take `--json`.

use crate::terminal::{Tone, escape, paint};

/// One field of a row; its text may come from anywhere.
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// A field in a colour.
    pub fn toned(text: &str, tone: Tone) -> Self {
        Self { tone: Some(tone), ..Self::from(text) }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self { text: escape(text).into_owned(), tone: None }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// Rows below a header, each column as wide as its widest field; the last one ends where its text ends.
pub fn render<const N: usize>(header: [&str; N], rows: &[[Cell; N]], coloured: bool) -> String {
    let header = header.map(|title| Cell::toned(title, Tone::Quiet));
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| all().map(|row| row[column].text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in all() {
        for (column, cell) in row.iter().enumerate() {
            let last = column + 1 == N;
            match cell.tone {
                Some(tone) => text.push_str(&paint(&cell.text, tone, coloured)),
                None => text.push_str(&cell.text),
            }
            let gap = if last { 0 } else { widths[column] - cell.text.chars().count() + 2 };
            text.extend(std::iter::repeat_n(' ', gap));
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_whatever_their_colour() {
        let rows = [["é".into(), Cell::toned("healthy", Tone::Good)], ["worker".into(), "".into()]];
        assert_eq!(render(["NAME", "STATE"], &rows, false), "NAME    STATE\né       healthy\nworker\n");
        let coloured = render(["NAME", "STATE"], &rows, true);
        assert!(coloured.contains("é       \u{1b}[32mhealthy\u{1b}[0m\n"), "{coloured:?}");
    }

    #[test]
    fn a_field_cannot_break_out_of_its_row() {
        let rows = [[Cell::from("a\nb\u{1b}[2J")]];
        assert_eq!(render(["X"], &rows, false), "X\na\\nb\\u{1b}[2J\n");
    }
}
