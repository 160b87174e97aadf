//! What a request to pause must say: for how long.

use super::problem::{Code, Problem};
use hale_core::time::Span;
use hale_core::world::pause::{PAUSE_MAX, PAUSE_MIN};

/// The key that says it, in milliseconds.
const KEY: &str = "for_ms";

/// Reads it from what follows the path.
pub(super) fn lasts(query: Option<&str>) -> Result<Span, Problem> {
    let value =
        query.unwrap_or_default().split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == KEY));
    let Some((_, value)) = value else {
        return Err(Problem::new(Code::BadRequest, format!("a pause must end: add ?{KEY}=, a time in milliseconds")));
    };
    let lasts = value.parse().ok().map(Span::from_ms).filter(|lasts| (PAUSE_MIN..=PAUSE_MAX).contains(lasts));
    lasts.ok_or_else(|| {
        Problem::new(
            Code::BadRequest,
            format!(
                "{KEY} must be a number from {} ({PAUSE_MIN}) to {} ({PAUSE_MAX})",
                PAUSE_MIN.as_ms(),
                PAUSE_MAX.as_ms()
            ),
        )
    })
}
