//! The guardian's lines in output that is dropped: the borders between processes stay in the log.

use std::collections::VecDeque;

/// How a marker begins.
const BEGIN: &[u8] = b"hale: epoch ";

/// The longest marker in bytes ([`MARKER_BYTES`](crate::sys::child::MARKER_BYTES) holds two). A longer line is a
/// service's own.
const LINE_BYTES_MAX: usize = 200;

/// How many are kept of one gap: the newest, with begin and end of a process that failed in it, and of one more. A
/// service can write such lines itself, and none of them counts for the rate.
const KEPT_MAX: usize = 4;

/// Those of one gap.
#[derive(Debug, Default)]
pub struct Markers(VecDeque<Vec<u8>>);

impl Markers {
    /// Keeps the markers among what was read to be dropped. Gives the number of bytes that are lost, with those of older
    /// markers that gave way.
    pub fn sift(&mut self, output: &[u8]) -> u64 {
        let mut lost = output.len();
        // A service need not end its last line.
        for line in output.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let tail = &line[line.len().saturating_sub(LINE_BYTES_MAX)..];
            let Some(at) = tail.windows(BEGIN.len()).rposition(|window| window == BEGIN) else { continue };
            if self.0.len() == KEPT_MAX {
                lost += self.0.pop_front().map_or(0, |old| old.len());
            }
            lost -= tail.len() - at;
            self.0.push_back(tail[at..].to_vec());
        }
        lost as u64
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, each with its newline, oldest first.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        self.0.iter().flatten().copied().collect()
    }

    /// They are in the log.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_markers_are_kept_and_every_other_byte_is_counted() {
        let mut markers = Markers::default();
        assert_eq!(
            markers.sift(b"aaa\nbbbhale: epoch 1, pid 5 ended: exit code 1\nhale: epoch 2, pid 6 started\ncc"),
            9
        );
        assert_eq!(markers.text(), b"hale: epoch 1, pid 5 ended: exit code 1\nhale: epoch 2, pid 6 started\n");
        let begin_only = b"hale: epoch 9, pid";
        assert_eq!(markers.sift(begin_only), begin_only.len() as u64);
        assert_eq!(markers.sift(&[&[b'x'; 5000][..], b"\n"].concat()), 5001);
        assert_eq!(markers.sift(b"hale: epoch 3\nhale: epoch 4\n"), 0);
        let oldest = "hale: epoch 1, pid 5 ended: exit code 1\n".len() as u64;
        assert_eq!(markers.sift(b"hale: epoch 5\n"), oldest);
        assert_eq!(markers.text(), b"hale: epoch 2, pid 6 started\nhale: epoch 3\nhale: epoch 4\nhale: epoch 5\n");
    }
}
