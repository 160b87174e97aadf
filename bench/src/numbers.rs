//! What is said about a list of measurements: median, 95th percentile, maximum, all of them kept.

/// Measurements of one figure; milliseconds or another unit that the figure names.
#[derive(Debug, Clone, Default)]
pub struct Numbers(pub Vec<f64>);

impl Numbers {
    /// The smallest number that at least `share` of all are not above (nearest rank).
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    /// The median.
    pub fn p50(&self) -> Option<f64> {
        self.quantile(0.5)
    }
}

/// A number with three significant digits, or as a whole one from 1,000 on.
pub fn shown(number: Option<f64>) -> String {
    match number {
        None => "-".to_owned(),
        Some(n) if n.abs() >= 100.0 => format!("{n:.0}"),
        Some(n) if n.abs() >= 10.0 => format!("{n:.1}"),
        Some(n) if n.abs() >= 0.01 || n == 0.0 => format!("{n:.2}"),
        Some(n) => format!("{n:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let numbers = Numbers((1..=100).rev().map(f64::from).collect());
        assert_eq!(numbers.p50(), Some(50.0));
        assert_eq!(numbers.quantile(0.95), Some(95.0));
        assert_eq!(numbers.quantile(1.0), Some(100.0));
        assert_eq!(Numbers::default().p50(), None);
    }

    #[test]
    fn digits_fit_the_size() {
        assert_eq!([Some(1234.5), Some(12.34), Some(0.567), None].map(shown), ["1234", "12.3", "0.57", "-"]);
    }
}
