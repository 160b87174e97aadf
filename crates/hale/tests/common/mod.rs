//! The real binary on a host of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A host of its own: a configuration whose directories nobody else uses.
pub struct Host {
    pub directory: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let text = format!(
            "[host]\nstate_dir = \"{root}/state\"\nruntime_dir = \"{root}/run\"\n\n[service.web]\ncommand = [\"web\"]\n"
        );
        fs::create_dir(directory.path().join("run")).unwrap();
        fs::write(directory.path().join("hale.toml"), text).unwrap();
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `hale ARGUMENTS` with this host's configuration.
    pub fn hale(&self, arguments: &[&str]) -> Output {
        command(arguments).env("HALE_CONFIG", self.path("hale.toml")).output().unwrap()
    }
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hale"));
    command.args(arguments).env_remove("HALE_CONFIG").stdin(Stdio::null());
    command
}

#[track_caller]
pub fn code(output: &Output, expected: i32) {
    assert_eq!(output.status.code(), Some(expected), "{}{}", out(output), err(output));
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
