//! What the guest's agent says on its serial port: `guest/agent` is the other side.

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The exit code, or 128 and the number of the signal.
    pub exit: u8,
    /// Standard output and error.
    pub output: String,
}

/// Something whole that the agent said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It takes commands: once after each boot.
    Ready,
    /// The awaited command has ended.
    Done(Answer),
}

/// The line since the last boot, with what has arrived of something that is not whole yet.
#[derive(Debug, Default)]
pub(super) struct Line {
    buffer: Vec<u8>,
    awaited: u64,
}

impl Line {
    /// From now on only the command with the number `id` is heard of.
    pub(super) fn expect(&mut self, id: u64) {
        self.awaited = id;
    }

    /// Adds what has arrived. What is neither `ready` nor `done …` is skipped: firmware may write there too.
    pub(super) fn take_in(&mut self, bytes: &[u8]) -> Vec<Heard> {
        self.buffer.extend_from_slice(bytes);
        let mut heard = Vec::new();
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            let words: Vec<&str> = line.split(' ').collect();
            let mut whole = end + 1;
            match words.as_slice() {
                ["ready"] => heard.push(Heard::Ready),
                ["done", id, exit, length] => {
                    let (Ok(id), Ok(exit), Ok(length)) = (id.parse::<u64>(), exit.parse(), length.parse::<usize>())
                    else {
                        self.buffer.drain(..whole);
                        continue;
                    };
                    if self.buffer.len() < whole + length {
                        return heard;
                    }
                    let output = String::from_utf8_lossy(&self.buffer[whole..whole + length]).into_owned();
                    whole += length;
                    if id == self.awaited {
                        heard.push(Heard::Done(Answer { exit, output }));
                    }
                }
                _ => {}
            }
            self.buffer.drain(..whole);
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_heard_in_pieces_and_between_noise() {
        let mut line = Line::default();
        line.expect(7);
        assert_eq!(line.take_in(b"\x1b[2Jnoise\nrea"), []);
        assert_eq!(line.take_in(b"dy\ndone 6 0 2\nx\ndone 7 3 4\nab"), [Heard::Ready]);
        let answer = Answer { exit: 3, output: "ab\nc".to_owned() };
        assert_eq!(line.take_in(b"\ncready\n"), [Heard::Done(answer), Heard::Ready]);
    }
}
