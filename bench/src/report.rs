//! The measurements as a Markdown page: each figure with its goal, all supervisors, and what the machine did meanwhile.

use crate::numbers::{Numbers, shown};
use crate::supervisors::Kind;
use std::fmt::Write as _;

/// What Hale should reach.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// The median is at most this many times the floor's.
    MedianTimesFloor(f64),
    /// The median is at most this, in the figure's unit.
    Median(f64),
    /// The 95th percentile is at most this, in the figure's unit.
    P95(f64),
    /// The 99th percentile is at most this, in the figure's unit.
    P99(f64),
    /// The median is at most this much more than the floor's, in the figure's unit.
    MedianPlusFloor(f64),
    /// Nobody said what would be good.
    None,
}

/// One figure of one supervisor.
#[derive(Debug)]
pub struct Row {
    /// Who.
    pub kind: Kind,
    /// All measurements.
    pub numbers: Numbers,
    /// What a reader must know of this row.
    pub note: String,
}

/// One figure.
#[derive(Debug)]
pub struct Figure {
    /// What is measured, and how.
    pub title: String,
    /// Of all numbers.
    pub unit: &'static str,
    /// For Hale.
    pub goal: Goal,
    /// One for each supervisor.
    pub rows: Vec<Row>,
    /// Share of the time that the machine's processors were busy meanwhile, in percent.
    pub busy: f64,
}

impl Figure {
    /// Adds measurements of a supervisor to those that it has.
    pub fn add(&mut self, kind: Kind, numbers: Numbers, note: &str) {
        match self.rows.iter_mut().find(|row| row.kind == kind) {
            Some(row) => row.numbers.0.extend(numbers.0),
            None => self.rows.push(Row { kind, numbers, note: note.to_owned() }),
        }
    }

    /// Adds what a reader must know of the supervisor's row.
    pub fn note(&mut self, kind: Kind, text: &str) {
        for row in self.rows.iter_mut().filter(|row| row.kind == kind) {
            row.note = if row.note.is_empty() { text.to_owned() } else { format!("{}; {text}", row.note) };
        }
    }

    fn median(&self, kind: Kind) -> Option<f64> {
        self.rows.iter().find(|row| row.kind == kind)?.numbers.p50()
    }

    /// The median of `kind` as a multiple of the floor's.
    fn times_floor(&self, kind: Kind) -> Option<f64> {
        let floor = self.median(Kind::Floor).filter(|floor| *floor > 0.0)?;
        Some(self.median(kind)? / floor)
    }

    fn goal_line(&self) -> Option<String> {
        let hale = self.rows.iter().find(|row| row.kind == Kind::Hale)?;
        let (what, goal, reached) = match self.goal {
            Goal::MedianTimesFloor(goal) => ("p50, as a multiple of the floor's,", goal, self.times_floor(Kind::Hale)),
            Goal::Median(goal) => ("p50", goal, hale.numbers.p50()),
            Goal::P95(goal) => ("p95", goal, hale.numbers.quantile(0.95)),
            Goal::P99(goal) => ("p99", goal, hale.numbers.quantile(0.99)),
            Goal::MedianPlusFloor(goal) => {
                let more = self.median(Kind::Floor).zip(hale.numbers.p50()).map(|(floor, hale)| hale - floor);
                ("p50, above the floor's,", goal, more)
            }
            Goal::None => return None,
        };
        let verdict = match reached {
            Some(reached) if reached <= goal => "reached",
            Some(_) => "MISSED",
            None => "not measured",
        };
        // Three decimals: 2.004 is not 2.
        let reached = reached.map_or_else(|| "-".to_owned(), |reached| format!("{reached:.3}"));
        Some(format!("Goal: {what} at most {}. {verdict}: {reached}.", shown(Some(goal))))
    }

    /// The figure as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}, {}\n\n", self.title, self.unit);
        if let Some(goal) = self.goal_line() {
            text += &format!("{goal} ");
        }
        let _ = write!(text, "Processors {} % busy.\n\n", shown(Some(self.busy)));
        text += "| | n | p50 | p95 | p99 | max | p50 ÷ floor | |\n|---|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row.kind.name(),
                row.numbers.0.len(),
                shown(row.numbers.p50()),
                shown(row.numbers.quantile(0.95)),
                shown(row.numbers.quantile(0.99)),
                shown(row.numbers.quantile(1.0)),
                shown(self.times_floor(row.kind)),
                row.note,
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(goal: Goal) -> Figure {
        let mut figure = Figure { title: "x".to_owned(), unit: "ms", goal, rows: Vec::new(), busy: 50.0 };
        figure.add(Kind::Floor, Numbers(vec![1.0]), "");
        figure.add(Kind::Hale, Numbers(vec![1.5]), "");
        figure.add(Kind::Hale, Numbers(vec![2.5, 3.0]), "");
        figure
    }

    #[test]
    fn the_goal_is_compared_with_what_was_measured() {
        let line = |goal| figure(goal).goal_line().unwrap_or_default();
        assert!(line(Goal::MedianTimesFloor(2.0)).contains("MISSED: 2.500"));
        assert!(line(Goal::Median(2.5)).contains("reached: 2.500"));
        assert!(line(Goal::P95(2.9)).contains("MISSED: 3.000"));
        assert!(line(Goal::P99(3.0)).contains("reached: 3.000"));
        assert!(line(Goal::MedianPlusFloor(1.5)).contains("reached: 1.500"));
        assert_eq!(line(Goal::None), "");
    }

    #[test]
    fn a_row_shows_all_runs() {
        assert!(figure(Goal::Median(1.0)).markdown().contains("| hale | 3 | 2.50 | 3.00 | 3.00 | 3.00 | 2.50 |"));
    }
}
