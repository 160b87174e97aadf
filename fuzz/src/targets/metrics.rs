//! Metrics in the text format of Prometheus: where a page is cut changes nothing, and a figure is on the page.
//!
//! An input is a series, a line feed, and the page.

use hale_core::policy::Series;
use hale_daemon::monitor::probe::fed::samples;

pub fn run(input: &[u8]) {
    let Some(end) = input.iter().position(|&byte| byte == b'\n') else { return };
    let Ok(text) = std::str::from_utf8(&input[..end]) else { return };
    let Ok((series, _)) = Series::read(text) else { return };
    let page = &input[end + 1..];
    let any = Series { labels: [].into(), ..series.clone() };
    assert!(any.has(&series) && series.has(&series), "{series} is among {any}");
    let wanted = [series, any];
    let whole = samples(&wanted, [page]);
    for piece_bytes in [1, 3, 64] {
        assert_eq!(shown(&whole), shown(&samples(&wanted, page.chunks(piece_bytes))), "pieces of {piece_bytes}");
    }
    let lines = || page.split(|&byte| byte == b'\n');
    match whole {
        Ok(found) => {
            assert!(found.len() == 2 && found[0].len() <= found[1].len(), "{found:?}");
            assert!(found[1].len() <= lines().count(), "{found:?}");
            let digits = page.iter().any(u8::is_ascii_digit);
            let word = |word: &str| page.windows(3).any(|window| window.eq_ignore_ascii_case(word.as_bytes()));
            for figure in found.iter().flatten() {
                assert!(if figure.is_nan() { word("nan") } else { digits || word("inf") }, "{figure} is not there");
            }
            // Each line says the same alone.
            let alone: Vec<f64> =
                lines().flat_map(|line| samples(&wanted, [line]).expect("the page was good").swap_remove(1)).collect();
            assert_eq!(shown(&Ok(vec![alone])), shown(&Ok(vec![found[1].clone()])));
        }
        Err(why) => assert!(lines().any(|line| samples(&wanted, [line]).is_err()), "{why}"),
    }
}

/// As text, where NaN is the same as itself.
fn shown(found: &Result<Vec<Vec<f64>>, String>) -> String {
    format!("{found:?}")
}
