//! `cargo xtask gen`: files that programs write, and the comparison with what is in the repository.

use crate::tools::{Outcome, cargo, output_of, run, target_dir};
use crate::transcript;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The JSON Schema of the configuration, for editors.
const SCHEMA: &str = "docs/hale.schema.json";
/// The page with transcripts.
const README: &str = "README.md";

/// Writes all generated files, or with `only_check` compares them: the schema byte by byte, the transcripts without
/// what differs from run to run.
pub fn generate(root: &Path, only_check: bool) -> Outcome {
    run(&mut cargo(root, &["build", "--locked", "-p", "hale"]))?;
    let hale = target_dir(root)?.join("debug/hale");
    let schema = output_of(Command::new(&hale).arg("schema"))?;
    let readme = read(root, README)?;
    let new_readme = transcript::regenerate(&readme, &hale, &root.join("examples"))?;
    if !only_check {
        write(root, SCHEMA, &schema)?;
        return write(root, README, &new_readme);
    }
    same(SCHEMA, &read(root, SCHEMA)?, &schema)?;
    same(README, &transcript::comparable(&readme)?, &transcript::comparable(&new_readme)?)
}

/// An error that shows the first line in which the two differ.
fn same(file: &str, old: &str, new: &str) -> Outcome {
    if old == new {
        return Ok(());
    }
    let mut lines = old.lines().map(Some).chain([None]).zip(new.lines().map(Some).chain([None])).enumerate();
    let place = lines.find(|(_, (old, new))| old != new).map(|(at, (old, new))| {
        format!("line {}:\n  is:        {}\n  should be: {}", at + 1, old.unwrap_or("(end)"), new.unwrap_or("(end)"))
    });
    Err(format!("{file} is out of date; run `cargo xtask gen`. {}", place.unwrap_or_default()))
}

fn read(root: &Path, file: &str) -> Outcome<String> {
    fs::read_to_string(root.join(file)).map_err(|e| format!("cannot read {file}: {e}"))
}

fn write(root: &Path, file: &str, text: &str) -> Outcome {
    fs::write(root.join(file), text).map_err(|e| format!("cannot write {file}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_shown() {
        assert_eq!(same("f", "a\nb\n", "a\nb\n"), Ok(()));
        assert!(same("f", "a\nb\n", "a\nc\n").unwrap_err().contains("line 2:\n  is:        b\n  should be: c"));
        assert!(same("f", "a\n", "a\nb\n").unwrap_err().contains("(end)"));
    }
}
