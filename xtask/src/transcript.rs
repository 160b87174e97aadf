//! The transcripts in README.md: their commands are run for real, in order, and what they print is put below them.
//!
//! A transcript is a block of console text between two marks:
//!
//! ````text
//! <!-- transcript: until hale incidents --json | grep -q recovered -->
//! ```console
//! $ hale incidents
//! …
//! ```
//! <!-- /transcript -->
//! ````
//!
//! `until COMMAND` waits, before the block is run, until the command exits with 0. The mark `transcript: meanwhile`
//! starts the block's only command and goes on; its output is all that it prints until the last block is done.

use crate::tools::{Outcome, output_of};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const OPEN: &str = "<!-- transcript: ";
const CLOSE: &str = "<!-- /transcript -->";
/// Longest time for a block's `until`: the slowest recovery of the example takes a few seconds.
const UNTIL_WITHIN: Duration = Duration::from_secs(60);
/// Between two tries of an `until`.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest time for a program to end after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Sessions of this process so far: each has a folder of its own.
static SESSIONS: AtomicU32 = AtomicU32::new(0);

/// When a block is run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum When {
    /// At once.
    Now,
    /// As soon as this command exits with 0.
    Until(String),
    /// At once, beside the blocks that follow.
    Meanwhile,
}

/// A piece of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Kept as it is.
    Text(String),
    /// The commands of a transcript, with what the page says that they print.
    Transcript { mark: String, when: When, steps: Vec<Step> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    command: String,
    output: String,
}

/// The page with all transcripts run anew, with `hale` as the program of that name; `examples` is copied beside them.
pub fn regenerate(page: &str, hale: &Path, examples: &Path) -> Outcome<String> {
    let mut pieces = parse(page)?;
    if pieces.iter().any(|piece| matches!(piece, Piece::Transcript { .. })) {
        let mut session = Session::new(hale, examples)?;
        session.run(&mut pieces)?;
    }
    Ok(render(&pieces))
}

/// The page with everything left away that differs from run to run: numbers, identities, lengths of lines.
pub fn comparable(page: &str) -> Outcome<String> {
    let mut pieces = parse(page)?;
    for piece in &mut pieces {
        if let Piece::Transcript { steps, .. } = piece {
            for step in steps {
                step.output = step.output.lines().map(|line| steady_words(line) + "\n").collect();
            }
        }
    }
    Ok(render(&pieces))
}

/// A line of output, with each word that holds a digit as `#`, and units and spaces after numbers left away.
fn steady_words(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let bare = word.trim_end_matches([',', ';', ':', '.', ')']);
        let is_unit = matches!(bare, "ms" | "s" | "min" | "h" | "µs" | "KiB" | "MiB");
        let after_number = words.last().is_some_and(|last| last.starts_with('#'));
        if is_unit && after_number {
            continue;
        }
        let steady = if word.chars().any(|c| c.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() };
        if !(steady == "#" && after_number) {
            words.push(steady);
        }
    }
    words.join(" ")
}

fn parse(page: &str) -> Outcome<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = page;
    while let Some((text, after)) = rest.split_once(OPEN) {
        let wrong = |what: &str| format!("README.md: the transcript behind {:?} {what}", last_line(text));
        let (mark, after) = after.split_once(" -->\n").ok_or_else(|| wrong("has a mark without end"))?;
        let (block, after) = after.split_once(CLOSE).ok_or_else(|| wrong(&format!("has no {CLOSE}")))?;
        let when = match mark.split_once(' ') {
            Some(("until", command)) => When::Until(command.to_owned()),
            None if mark == "meanwhile" => When::Meanwhile,
            None if mark == "now" => When::Now,
            Some(_) | None => return Err(wrong("says neither `now`, `meanwhile` nor `until COMMAND`")),
        };
        let block = block.trim().strip_prefix("```console\n").and_then(|block| block.strip_suffix("```"));
        let steps = steps(block.ok_or_else(|| wrong("is no ```console block"))?);
        if steps.is_empty() || (when == When::Meanwhile && steps.len() != 1) {
            return Err(wrong("has the wrong number of `$ command` lines"));
        }
        pieces.push(Piece::Text(text.to_owned()));
        pieces.push(Piece::Transcript { mark: mark.to_owned(), when, steps });
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|line| !line.is_empty()).unwrap_or_default()
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), output: String::new() }),
            (None, Some(step)) => step.output += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    steps
}

fn render(pieces: &[Piece]) -> String {
    let mut page = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => page += text,
            Piece::Transcript { mark, steps, .. } => {
                page += &format!("{OPEN}{mark} -->\n```console\n");
                for Step { command, output } in steps {
                    page += &format!("$ {command}\n{output}");
                }
                page += &format!("```\n{CLOSE}");
            }
        }
    }
    page
}

/// A folder of its own for the commands, and what still runs in it.
struct Session {
    folder: PathBuf,
    path: std::ffi::OsString,
    meanwhile: Vec<(Child, PathBuf)>,
}

impl Session {
    /// Copies the examples into a fresh folder, with state and sockets there too: a run must not see or touch what
    /// another Hale on this machine keeps.
    fn new(hale: &Path, examples: &Path) -> Outcome<Self> {
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("hale-transcript-{}-{number}", std::process::id()));
        let failed = |e: std::io::Error| format!("cannot prepare {}: {e}", folder.display());
        fs::create_dir_all(folder.join("examples")).map_err(failed)?;
        for file in fs::read_dir(examples).map_err(failed)?.flatten() {
            let text = fs::read_to_string(file.path()).map_err(failed)?;
            let host =
                format!("[host]\nstate_dir = {:?}\nruntime_dir = {:?}\n", folder.join("state"), folder.join("run"));
            fs::write(folder.join("examples").join(file.file_name()), format!("{text}\n{host}")).map_err(failed)?;
        }
        let own = std::env::var_os("PATH").unwrap_or_default();
        let bin = hale.parent().ok_or("the hale binary has no folder")?.to_path_buf();
        let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&own)))
            .map_err(|e| format!("cannot put hale into PATH: {e}"))?;
        Ok(Self { folder, path, meanwhile: Vec::new() })
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(&self.folder).env("PATH", &self.path);
        // A terminal's width and colours must not change what is printed.
        shell.env("COLUMNS", "110").env("NO_COLOR", "1").stdin(Stdio::null());
        // As the page tells its reader to do.
        shell.env("HALE_CONFIG", "examples/hale.toml");
        shell
    }

    fn run(&mut self, pieces: &mut [Piece]) -> Outcome {
        for piece in pieces.iter_mut() {
            let Piece::Transcript { when, steps, .. } = piece else { continue };
            match when {
                When::Meanwhile => {
                    self.start(&steps[0].command)?;
                    continue;
                }
                When::Until(command) => self.wait_until(command)?,
                When::Now => {}
            }
            for step in steps {
                // A command that fails is part of the story: `hale` says so by its exit code, and so does the text.
                step.output = output_of(&mut self.shell(&format!("{{ {}; }} 2>&1 || true", step.command)))?;
                // Where the session is means nothing to a reader.
                step.output = step.output.replace(&*self.folder.to_string_lossy(), "~");
            }
        }
        let mut outputs = self.stop()?.into_iter();
        for piece in pieces {
            if let Piece::Transcript { when: When::Meanwhile, steps, .. } = piece {
                steps[0].output = outputs.next().unwrap_or_default();
            }
        }
        Ok(())
    }

    fn start(&mut self, command: &str) -> Outcome {
        let path = self.folder.join(format!("meanwhile-{}", self.meanwhile.len()));
        let failed = |e: std::io::Error| format!("cannot start `{command}`: {e}");
        let output = fs::File::create(&path).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        let mut shell = self.shell(&format!("exec {command}"));
        let child = shell.stdout(output).stderr(errors).spawn().map_err(failed)?;
        self.meanwhile.push((child, path));
        Ok(())
    }

    fn wait_until(&self, command: &str) -> Outcome {
        let start = Instant::now();
        loop {
            let mut shell = self.shell(command);
            let status = shell.stdout(Stdio::null()).stderr(Stdio::null()).status();
            if status.map_err(|e| format!("cannot run `{command}`: {e}"))?.success() {
                return Ok(());
            }
            if start.elapsed() > UNTIL_WITHIN {
                return Err(format!("a transcript waited {} s in vain for `{command}`", UNTIL_WITHIN.as_secs()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends what runs beside, in order; what each of them printed before.
    fn stop(&mut self) -> Outcome<Vec<String>> {
        let mut outputs = Vec::new();
        for (mut child, path) in self.meanwhile.drain(..) {
            outputs.push(fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?);
            // An unreaped child keeps its pid, so this reaches nobody else.
            output_of(Command::new("kill").args(["-TERM", &child.id().to_string()]))?;
            let start = Instant::now();
            while child.try_wait().map_err(|e| format!("cannot wait: {e}"))?.is_none() {
                if start.elapsed() > STOP_WITHIN {
                    child.kill().map_err(|e| format!("cannot kill pid {}: {e}", child.id()))?;
                }
                std::thread::sleep(PAUSE);
            }
        }
        Ok(outputs)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(message) = self.stop() {
            println!("{message}");
        }
        if let Err(e) = fs::remove_dir_all(&self.folder) {
            println!("cannot remove {}: {e}", self.folder.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Title\n\n<!-- transcript: now -->\n```console\n$ echo 5 ms\nold\n$ basename \"$0\"\n```\n\
                        <!-- /transcript -->\n\nMore.\n";

    fn here() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
    }

    #[test]
    fn a_page_is_rendered_as_it_was_read() {
        assert_eq!(render(&parse(PAGE).unwrap()), PAGE);
    }

    #[test]
    fn commands_are_run_and_their_output_replaced() {
        let page = regenerate(PAGE, Path::new("/bin/hale"), &here()).unwrap();
        assert!(page.contains("$ echo 5 ms\n5 ms\n$ basename \"$0\"\nsh\n```"), "{page}");
        assert!(page.starts_with("# Title\n") && page.ends_with("\nMore.\n"), "{page}");
    }

    #[test]
    fn a_block_waits_for_what_runs_meanwhile() {
        let block = |mark: &str, command: &str| format!("{OPEN}{mark} -->\n```console\n$ {command}\n```\n{CLOSE}\n");
        let page = block("meanwhile", "sh -c 'echo begun; touch begun; exec tail -f /dev/null'")
            + &block("until test -e begun", "echo seen");
        let page = regenerate(&page, Path::new("/bin/hale"), &here()).unwrap();
        assert!(page.contains("/dev/null'\nbegun\n```") && page.contains("$ echo seen\nseen\n"), "{page}");
    }

    #[test]
    fn only_what_differs_from_run_to_run_is_left_away() {
        let same = |a: &str, b: &str| steady_words(a) == steady_words(b);
        assert!(same("T+0.4 ms  decided, pid 12", "T+1.2 s decided, pid  4711"));
        assert!(same("took 2 min 3 s", "took 800 ms"));
        assert!(!same("T+0.4 ms decided", "T+0.4 ms refused"));
    }

    #[test]
    fn a_mark_that_says_nothing_is_an_error() {
        assert!(parse(&PAGE.replace("now", "later")).is_err());
        assert!(parse(&PAGE.replace(CLOSE, "")).is_err());
    }
}
