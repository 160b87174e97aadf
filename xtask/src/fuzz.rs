//! `cargo xtask fuzz`: builds the fuzz targets with libFuzzer and lets each look for inputs that break Hale.

use crate::report::LeftOut;
use crate::tools::{Outcome, cargo, find_program, output_of, run, target_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How long each target runs where nobody says it: mostly the kept inputs and what is near them.
const SECONDS: &str = "20";

/// An input that takes longer is a finding.
const TIMEOUT_S: u32 = 5;

/// So is one with which the process has more memory.
const RSS_LIMIT_MB: u32 = 1024;

/// The longest input: as much as Hale reads of the output of a process.
const INPUT_BYTES_MAX: u32 = 64 << 10;

/// How much of a log is shown of a target that failed.
const SHOWN_LINES: usize = 40;

/// Counters at each edge and operands of each comparison, for libFuzzer: all of it in stable LLVM. What cargo-fuzz passes.
const RUSTFLAGS: &[&str] = &[
    "--cfg",
    "hale_fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// `cargo xtask fuzz [TARGET] [SECONDS | merge | FILE...]`.
pub fn command(root: &Path, words: &[&str]) -> Outcome {
    if let Some(why) = missing() {
        return Err(format!("cannot build the fuzz targets here: {why}"));
    }
    let all = targets(root)?;
    let fuzzer = Fuzzer::build(root)?;
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    match words {
        [] => fuzzer.each(&all, SECONDS),
        [seconds] if is_number(seconds) => fuzzer.each(&all, seconds),
        [target, ..] if !all.iter().any(|known| known == target) => {
            Err(format!("no target {target:?}; there are: {}", all.join(", ")))
        }
        [target] => fuzzer.look(target, SECONDS),
        [target, seconds] if is_number(seconds) => fuzzer.look(target, seconds),
        [target, "merge"] => fuzzer.merge(target),
        [target, files @ ..] => run(fuzzer.of(target).args(files)),
    }
}

/// All targets, a short time each, for `cargo xtask test`.
pub fn short(root: &Path) -> Outcome {
    Fuzzer::build(root)?.each(&targets(root)?, SECONDS)
}

/// What is left out where [`missing`] says why.
pub fn left_out(root: &Path, why: String) -> LeftOut {
    LeftOut { what: "fuzz targets".to_owned(), count: targets(root).map_or(1, |all| all.len() as u64), why }
}

/// What this machine lacks.
pub fn missing() -> Option<String> {
    let has_compiler = std::env::var_os("CXX").is_some() || find_program("c++").is_some();
    (!has_compiler).then(|| "no C++ compiler, with which libFuzzer is built (Debian: g++)".to_owned())
}

/// The names of all targets: each has a folder of inputs.
fn targets(root: &Path) -> Outcome<Vec<String>> {
    let folder = root.join("fuzz/corpus");
    let read = || fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>();
    let names = read().map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let mut names: Vec<String> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// The built program, and its places.
struct Fuzzer<'a> {
    root: &'a Path,
    program: PathBuf,
    /// What runs leave, out of the repository.
    folder: PathBuf,
}

impl<'a> Fuzzer<'a> {
    fn build(root: &'a Path) -> Outcome<Self> {
        let target = target_dir(root)?.join("fuzz");
        let version = output_of(Command::new("rustc").arg("-vV").current_dir(root))?;
        let host =
            version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc does not name its host")?;
        // Said to be for a target, even if it is the host's own, the flags are not for build scripts and macros.
        let words = ["build", "--locked", "-p", "hale-fuzz", "--profile", "fuzz", "--target", host, "--target-dir"];
        let mut build = cargo(root, &words);
        run(build.arg(&target).env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f")))?;
        let program = target.join(host).join("fuzz/hale-fuzz");
        Ok(Self { root, program, folder: target })
    }

    fn of(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("HALE_FUZZ_TARGET", target).current_dir(self.root);
        command.args([format!("-timeout={TIMEOUT_S}"), format!("-rss_limit_mb={RSS_LIMIT_MB}")]);
        command
    }

    fn corpus(&self, target: &str) -> PathBuf {
        self.root.join("fuzz/corpus").join(target)
    }

    /// Where new inputs of a target are put.
    fn found(&self, target: &str) -> Outcome<PathBuf> {
        made(self.folder.join("found").join(target))
    }

    /// All these targets; what one finds does not keep the others from running.
    fn each(&self, targets: &[String], seconds: &str) -> Outcome {
        let failures: Vec<String> = targets.iter().filter_map(|target| self.look(target, seconds).err()).collect();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
    }

    /// Looks for an input that breaks the target.
    fn look(&self, target: &str, seconds: &str) -> Outcome {
        let crashes = self.folder.join("crashes").join(target);
        // What an earlier run left would be taken for this one's.
        let _nothing_there = fs::remove_dir_all(&crashes);
        let crashes = made(crashes)?;
        let (log, found) = (self.folder.join(format!("{target}.log")), self.found(target)?);
        let file = fs::File::create(&log).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
        let mut command = self.of(target);
        command.args([format!("-max_total_time={seconds}"), format!("-max_len={INPUT_BYTES_MAX}")]);
        command.arg(format!("-artifact_prefix={}/", crashes.display())).arg(found).arg(self.corpus(target));
        let outcome = run(command.stdout(Stdio::null()).stderr(file));
        let text = fs::read(&log).map_err(|e| format!("cannot read {}: {e}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let Err(why) = outcome else {
            println!("{target}: {}", figures(&lines).ok_or_else(|| format!("{target}: no end in {}", log.display()))?);
            return Ok(());
        };
        let end = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        let inputs = fs::read_dir(&crashes).into_iter().flatten().flatten();
        let again: Vec<String> =
            inputs.map(|input| format!("see it again: cargo xtask fuzz {target} {}", input.path().display())).collect();
        println!("{target}: FAILED, all of it in {}\n{end}", log.display());
        Err(format!("fuzz target {target}: {why}\n{}", again.join("\n")))
    }

    /// Replaces the kept inputs by the fewest that reach each edge that they and what was found reach; how often does not count.
    fn merge(&self, target: &str) -> Outcome {
        let fresh = self.folder.join("merged").join(target);
        let _nothing_there = fs::remove_dir_all(&fresh);
        let (fresh, kept) = (made(fresh)?, self.corpus(target));
        run(self.of(target).args(["-merge=1", "-use_counters=0"]).arg(&fresh).arg(&kept).arg(self.found(target)?))?;
        let moved = || {
            fs::remove_dir_all(&kept)?;
            fs::create_dir(&kept)?;
            for input in fs::read_dir(&fresh)? {
                let input = input?;
                fs::copy(input.path(), kept.join(input.file_name()))?;
            }
            Ok(())
        };
        moved().map_err(|e: std::io::Error| format!("cannot replace {}: {e}", kept.display()))
    }
}

fn made(folder: PathBuf) -> Outcome<PathBuf> {
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    Ok(folder)
}

/// What libFuzzer says at the end: `#123 DONE cov: 4 ft: 5 corp: 6/7b ..`, the edges that were reached first.
fn figures<'a>(lines: &[&'a str]) -> Option<&'a str> {
    lines.iter().rev().find(|line| line.starts_with('#') && line.contains("DONE")).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_found() {
        let log = ["#2\tINITED cov: 1", "#99\tDONE   cov: 4 ft: 5", "Done 99 runs in 20 second(s)"];
        assert_eq!(figures(&log), Some("#99\tDONE   cov: 4 ft: 5"));
        assert_eq!(figures(&log[..1]), None);
    }
}
