//! A small tmpfs for tests that fill a disk or make it read-only: mounted in a private mount namespace, so that it is gone
//! with the test whatever happens. Needs root.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the test that runs inside finds its mount.
const MOUNT: &str = "HALE_TEST_TMPFS";

/// The mount, if the calling test runs inside already; else runs `test`, which is its full name, once more in a tmpfs of
/// `size` and fails if that fails.
pub(crate) fn or_rerun_in_one(test: &str, size: &str) -> Option<PathBuf> {
    if let Some(mount) = std::env::var_os(MOUNT) {
        return Some(mount.into());
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let script = format!("mount -t tmpfs -o size={size} tmpfs \"$0\" && exec \"$@\"");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec", &script])
        .arg(dir.path())
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(MOUNT, dir.path())
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    None
}

/// Fills the file system with a file at `path`.
pub(crate) fn fill(path: &Path) {
    let mut file = File::create(path).expect("create");
    while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
}
