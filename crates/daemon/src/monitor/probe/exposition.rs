//! Reads metrics in the text format of Prometheus as they come, and keeps the samples that are asked for.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>.

use hale_core::policy::Series;

/// The longest line: a sample has a name, some labels and a number; what is longer is something else.
const LINE_BYTES_MAX: usize = 64 << 10;

/// How many samples of one series are kept: a process for each core, a queue for each customer; a metric with more is not
/// one that a bound is put on.
const SAMPLES_MAX: usize = 10_000;

/// What is read, and what was found so far.
pub(super) struct Exposition<'a> {
    wanted: Vec<&'a Series>,
    found: Vec<Vec<f64>>,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl<'a> Exposition<'a> {
    pub(super) fn new(wanted: Vec<&'a Series>) -> Self {
        let found = wanted.iter().map(|_| Vec::new()).collect();
        Self { wanted, found, rest: Vec::new() }
    }

    /// Takes the next bytes, wherever they were cut.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            if self.rest.is_empty() {
                self.line(&bytes[..end])?;
            } else {
                self.keep(&bytes[..end])?;
                let line = std::mem::take(&mut self.rest);
                self.line(&line)?;
            }
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes)
    }

    /// The samples of each wanted series, in the order in which they were asked for; the last line may lack its end.
    pub(super) fn end(mut self) -> Result<Vec<Vec<f64>>, String> {
        let line = std::mem::take(&mut self.rest);
        self.line(&line)?;
        Ok(self.found)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.rest.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(format!("a line of the metrics is longer than {LINE_BYTES_MAX} bytes"));
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let line = line.trim_ascii();
        // Most lines are of other metrics, and are not looked at any further.
        let is_end = |byte: &u8| matches!(byte, b'{' | b' ' | b'\t');
        let named = |series: &&&Series| {
            line.strip_prefix(series.name.as_bytes()).is_some_and(|rest| rest.first().is_none_or(is_end))
        };
        if self.wanted.iter().find(named).is_none() {
            return Ok(());
        }
        let line = String::from_utf8_lossy(line);
        let bad = |why: &str| format!("not in the text format of Prometheus: {why}: {line:?}");
        let (series, rest) = Series::read(&line).map_err(bad)?;
        for (wanted, found) in self.wanted.iter().zip(&mut self.found) {
            if !wanted.has(&series) {
                continue;
            }
            let value = rest.split_ascii_whitespace().next().ok_or_else(|| bad("there is no value"))?;
            // Go's ParseFloat, which the format refers to, knows `NaN`, `+Inf` and `-Inf`; so does Rust.
            let value = value.parse().map_err(|_| bad("its value is not a number"))?;
            if found.len() == SAMPLES_MAX {
                return Err(format!("more than {SAMPLES_MAX} samples of {wanted}"));
            }
            found.push(value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP jobs_total Jobs that are done.\n# TYPE jobs_total counter\n\
        jobs_total{queue=\"mail\",state=\"ok\"} 12 1700000000000\njobs_total{queue=\"mail\",state=\"bad\"} 3e0\n\
        jobs_total_created 5\njobs_total{queue=\"sms\"} +Inf # {id=\"1\"} 1\n\r\n  up 1\r\n\nlag NaN";

    fn series(text: &str) -> Series {
        Series::read(text).expect("a series").0
    }

    fn read(page: &str, wanted: &[&str], cut: usize) -> Result<Vec<Vec<f64>>, String> {
        let wanted: Vec<Series> = wanted.iter().map(|text| series(text)).collect();
        let mut exposition = Exposition::new(wanted.iter().collect());
        page.as_bytes().chunks(cut).try_for_each(|bytes| exposition.push(bytes))?;
        exposition.end()
    }

    #[test]
    fn samples_are_found_wherever_the_page_is_cut() {
        for cut in [1, 2, 7, 64, PAGE.len()] {
            let wanted = ["jobs_total{queue=\"mail\"}", "up", "jobs_total", "jobs"];
            let found = read(PAGE, &wanted, cut).expect("it is good");
            assert_eq!(found, [vec![12.0, 3.0], vec![1.0], vec![12.0, 3.0, f64::INFINITY], vec![]], "{cut}");
            assert!(read(PAGE, &["lag"], cut).expect("it is good")[0][0].is_nan());
        }
    }

    #[test]
    fn what_is_not_the_format_is_told_and_bounded() {
        for (page, why) in [
            ("up", "there is no value"),
            ("up one", "its value is not a number"),
            ("up{a=1} 1", "a label's value stands in double quotes"),
        ] {
            let error = read(page, &["up"], 64).expect_err(page);
            assert!(error.contains(why) && error.contains(page.split(' ').next().expect("a word")), "{error}");
        }
        assert!(read(&"x".repeat(LINE_BYTES_MAX + 1), &["up"], 4096).expect_err("long").contains("longer than"));
        assert!(read(&"up 1\n".repeat(SAMPLES_MAX + 1), &["up"], 4096).expect_err("many").contains("more than"));
        assert_eq!(read("upper{a=1} x\nup 1\n", &["up"], 64), Ok(vec![vec![1.0]]));
        // Of others nothing is said.
        assert_eq!(read("<html>\nup 1\n", &["up"], 64), Ok(vec![vec![1.0]]));
    }
}
