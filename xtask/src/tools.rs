//! Running other programs, and finding them and the repository.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a check or step says: nothing, or all that is wrong as text for a person.
pub type Outcome<T = ()> = Result<T, String>;

/// The root of the repository: the parent of xtask's own folder, which cargo tells at run time.
pub fn repository() -> Outcome<PathBuf> {
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("run this as `cargo xtask`")?;
    Path::new(&manifest_dir).parent().map(Path::to_path_buf).ok_or_else(|| "xtask has no parent folder".to_owned())
}

/// `cargo` as it was called, in the repository, with `words`.
pub fn cargo(root: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).current_dir(root);
    command
}

/// Runs `command` with its output shown; fails unless it exits with 0.
pub fn run(command: &mut Command) -> Outcome {
    let status = command.stdin(Stdio::null()).status().map_err(|e| format!("cannot run {}: {e}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", shown(command))) }
}

/// Runs `command` and gives its standard output; its standard error is shown. Fails unless it exits with 0.
pub fn output_of(command: &mut Command) -> Outcome<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run {}: {e}", shown(command)))?;
    if !output.status.success() {
        return Err(format!("{} failed: {}", shown(command), output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{} printed something that is not UTF-8", shown(command)))
}

/// The command line, as far as it can be shown.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    format!("`{}`", words.join(" "))
}

/// Where `program` is: in PATH, or in the folders of system programs that an ordinary user's PATH leaves out.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// `cargo metadata` with all dependencies resolved, exactly as `Cargo.lock` says.
pub fn metadata(root: &Path) -> Outcome<Value> {
    let text = output_of(&mut cargo(root, &["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_str(&text).map_err(|e| format!("cannot read what `cargo metadata` printed: {e}"))
}

/// The folder where cargo builds.
pub fn target_dir(root: &Path) -> Outcome<PathBuf> {
    metadata(root)?["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| "`cargo metadata` names no target directory".to_owned())
}

/// The files of the repository, tracked or about to be, as paths from its root, sorted.
pub fn repository_files(root: &Path) -> Outcome<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root);
    let mut files: Vec<String> = output_of(&mut git)?
        .split('\0')
        .filter(|file| !file.is_empty() && root.join(file).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}
