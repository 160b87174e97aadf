//! Counts code: the lines that are neither blank, nor a comment, nor tests.

use crate::tools::{Outcome, repository_files};
use std::collections::BTreeMap;
use std::path::Path;

/// What is counted when no folder is named: the process that outlives all others, and the messages that it shares with them.
const FOLDERS: &[&str] = &["crates/daemon/src/guardian", "crates/daemon/src/protocol"];

/// A folder that has to stay small, and how many lines of code it may have, without its own folders. The guardian is to be
/// read in one sitting, and cannot be replaced while services run.
pub const BOUNDS: &[(&str, usize)] = &[("crates/daemon/src/guardian", 2_050)];

/// The lines of code of a Rust file.
pub fn of(text: &str) -> usize {
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    // Tests, and what only they use, stand at the end.
    text.lines().take_while(|line| *line != "#[cfg(test)]").filter(is_code).count()
}

/// The lines of code of each Rust file in `folder` and its own folders, by folder and name.
fn counted(root: &Path, files: &[String], folder: &str) -> Outcome<BTreeMap<(String, String), usize>> {
    let mut counts = BTreeMap::new();
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        let Some((parent, name)) = file.rsplit_once('/') else { continue };
        if parent.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let text = std::fs::read_to_string(root.join(file)).map_err(|e| format!("cannot read {file}: {e}"))?;
            counts.insert((parent.to_owned(), name.to_owned()), of(&text));
        }
    }
    Ok(counts)
}

/// Prints each file's lines of code, and each folder's.
pub fn print(root: &Path, folders: &[&str]) -> Outcome {
    let files = repository_files(root)?;
    let mut all = BTreeMap::new();
    for folder in if folders.is_empty() { FOLDERS } else { folders } {
        all.extend(counted(root, &files, folder.trim_end_matches('/'))?);
    }
    let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
    for ((folder, _), lines) in &all {
        *sums.entry(folder).or_default() += lines;
    }
    for (folder, sum) in &sums {
        println!("{sum:>6}  {folder}");
        all.iter().filter(|((own, _), _)| own == folder).for_each(|((_, name), lines)| println!("{lines:>12}  {name}"));
    }
    println!("{:>6}  together", sums.values().sum::<usize>());
    Ok(())
}

/// What has outgrown its bound.
pub fn findings(root: &Path, files: &[String]) -> Outcome<Vec<String>> {
    let mut findings = Vec::new();
    for &(folder, most) in BOUNDS {
        let counts = counted(root, files, folder)?;
        let lines: usize = counts.iter().filter(|((own, _), _)| own == folder).map(|(_, lines)| lines).sum();
        if lines == 0 || lines > most {
            findings
                .push(format!("{folder}: {lines} lines of code, at most {most}: move out what another process can do"));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_tests_do_not_count() {
        let text = "//! What it is.\n\nfn a() {\n    // Why.\n    b(\"// text\"); // Why.\n}\n\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(of(text), 3);
    }
}
