//! Tables for people.

/// Columns as wide as their longest cell, each row ended by a newline.
pub(super) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 6]| cells.map(str::to_owned);
        let text = table(&[row(["a", "b", "c", "d", "e", "f"]), row(["long", "", "ü", "1/2", "0.1", "0"])]);
        assert_eq!(text, "a     b  c  d    e    f\nlong     ü  1/2  0.1  0\n");
    }
}
