//! A row of small bars: how a figure has been lately.

use crate::model::Model;

/// The heights of a bar, in Unicode and in ASCII.
const BARS: [[char; 8]; 2] = [['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'], ['_', '.', ',', '-', '=', '+', '*', '#']];

/// Returns the last values as bars, one column each, the newest to the right; `top` = the value of the highest bar.
pub(super) fn bars(model: &Model, values: &[u64], top: u64, columns: usize) -> String {
    let set = BARS[usize::from(model.appearance.ascii)];
    let shown = &values[values.len().saturating_sub(columns)..];
    let bar = |value: &u64| {
        let height = value.saturating_mul(7) / top.max(1);
        set[usize::try_from(height).unwrap_or(7).min(7)]
    };
    let bars: String = shown.iter().map(bar).collect();
    format!("{}{bars}", " ".repeat(columns - shown.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::empty;

    #[test]
    fn the_newest_is_to_the_right_and_the_highest_fills_its_column() {
        let mut model = empty();
        assert_eq!(bars(&model, &[0, 50, 100], 100, 5), "  ▁▄█");
        assert_eq!(bars(&model, &[9, 9, 9, 0, 200], 100, 2), "▁█", "more than the top is the top");
        assert_eq!(bars(&model, &[0], 0, 1), "▁");
        assert_eq!(bars(&model, &[], 9, 3), "   ");
        model.appearance.ascii = true;
        assert_eq!(bars(&model, &[0, 100], 100, 2), "_#");
    }
}
