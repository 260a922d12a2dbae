//! Windows of one figure, and what may be said of them.

use serde::Serialize;

/// One figure over all its windows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// subject/action/parameter.
    pub name: String,
    /// The middle window.
    pub median: f64,
    /// The lowest window.
    pub min: f64,
    /// The highest window.
    pub max: f64,
    /// Lower end of the interval that holds the median with at least 95 % confidence.
    pub low95: f64,
    /// Upper end of it.
    pub high95: f64,
    /// How many windows.
    pub windows: usize,
    /// Unit of all figures.
    pub unit: &'static str,
}

impl Row {
    /// Sums up windows.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn of(name: &str, unit: &'static str, mut windows: Vec<f64>) -> Self {
        windows.sort_by(f64::total_cmp);
        let count = windows.len();
        let below = interval_rank(count);
        Self {
            name: name.to_owned(),
            median: median(&windows),
            min: windows[0],
            max: windows[count - 1],
            low95: windows[below],
            high95: windows[count - 1 - below],
            windows: count,
            unit,
        }
    }
}

/// What one figure is of another, window by window.
#[must_use]
pub fn ratio_of_pairs(figure: &[f64], of: &[f64]) -> Row {
    let ratios = figure.iter().zip(of).map(|(figure, of)| figure / of).collect();
    Row::of("", "ratio", ratios)
}

/// Median of sorted values.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// How many windows may be cut off at each end so that the rest still holds the true median in at least
/// 95 % of all cases: no shape of the distribution is assumed (sign test).
fn interval_rank(count: usize) -> usize {
    let Ok(power) = i32::try_from(count) else { return 0 };
    let mut probability = 0.5_f64.powi(power);
    let mut tail = probability;
    let mut rank = 0;
    while 2.0 * tail <= 0.05 {
        rank += 1;
        #[allow(clippy::cast_precision_loss, reason = "counts of windows are small")]
        let factor = (count - rank + 1) as f64 / rank as f64;
        probability *= factor;
        tail += probability;
    }
    rank.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_windows_lose_one_at_each_end() {
        // 1 - 2 (1 + 9) / 512 = 96.1 %; cutting two would leave 82 %.
        assert_eq!(interval_rank(9), 1);
    }

    #[test]
    fn five_windows_cannot_reach_95_percent_and_lose_none() {
        assert_eq!(interval_rank(5), 0);
    }

    #[test]
    fn sums_up_windows_in_any_order() {
        let row = Row::of("a/b", "Mpps", vec![3.0, 1.0, 2.0]);
        assert_eq!((row.min, row.median, row.max), (1.0, 2.0, 3.0));
    }

    #[test]
    fn an_even_number_of_windows_has_its_median_in_between() {
        assert_eq!(Row::of("a/b", "Mpps", vec![1.0, 2.0, 4.0, 9.0]).median, 3.0);
    }

    #[test]
    fn a_ratio_is_taken_of_windows_that_follow_one_another() {
        // Two near windows and one far one; the medians alone would say 40 / 80.
        let (hop, bare) = ([40.0, 20.0, 44.0], [200.0, 80.0, 200.0]);
        assert_eq!(ratio_of_pairs(&hop, &bare).median, 0.22);
    }
}
