//! Tables of figures, as the README has them.

use std::fmt;
use std::time::Duration;

/// Rows of a Markdown table, its columns as wide as they need to be.
#[derive(Debug)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new<const N: usize>(title: impl Into<String>, columns: [&str; N]) -> Self {
        Self { title: title.into(), rows: vec![columns.map(str::to_owned).to_vec()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        writeln!(f, "\n{}\n", self.title)?;
        for (index, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().copied().enumerate() {
                let text = cell(row, column);
                if column == 0 { write!(f, "| {text:<width$} ")? } else { write!(f, "| {text:>width$} ")? }
            }
            writeln!(f, "|")?;
            if index == 0 {
                for (column, width) in widths.iter().copied().enumerate() {
                    let colon = if column == 0 { '-' } else { ':' };
                    write!(f, "|{}{colon}", "-".repeat(width + 1))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// A rate with three significant digits and its thousands set apart.
pub fn rate(count: usize, took: Duration) -> String {
    let rate = count as f64 / took.as_secs_f64().max(1e-9);
    let step = 10_f64.powi((rate.max(1.0).log10().floor() as i32 - 2).max(0));
    let digits = format!("{:.0}", (rate / step).round() * step);
    let mut text = String::with_capacity(digits.len() + 4);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in milliseconds, with three significant digits or so.
pub fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        0.0..10.0 => format!("{millis:.2}"),
        10.0..100.0 => format!("{millis:.1}"),
        _ => format!("{millis:.0}"),
    }
}

/// A share of one duration in another: how fast something is beside its limit.
pub fn ratio(limit: Duration, took: Duration) -> String {
    format!("{:.2}", limit.as_secs_f64() / took.as_secs_f64().max(1e-9))
}

/// A size in megabytes.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new("Two rows:", ["name", "jobs/s"]);
        table.row(["raw".to_owned(), rate(20_000, Duration::from_secs(1))]);
        table.row(["certlib".to_owned(), String::new()]);
        let expected = "\nTwo rows:\n\n\
                        | name    | jobs/s |\n\
                        |---------|-------:|\n\
                        | raw     | 20,000 |\n\
                        | certlib |        |\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn figures_are_as_exact_as_they_are_worth() {
        assert_eq!(rate(73_456, Duration::from_secs(1)), "73,500");
        assert_eq!(rate(1_234_567, Duration::from_secs(1)), "1,230,000");
        assert_eq!(rate(7, Duration::from_secs(2)), "4");
        assert_eq!(millis(Duration::from_micros(1_533)), "1.53");
        assert_eq!(millis(Duration::from_millis(468)), "468");
        assert_eq!(ratio(Duration::from_secs(1), Duration::from_secs(2)), "0.50");
    }
}
