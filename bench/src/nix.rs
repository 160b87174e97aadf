//! A Nix with a store of its own, so that nothing of the machine's is touched.

use crate::figures::milliseconds;
use crate::starts::now_ns;
use crate::supervisors::fresh_folder;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where it is.
pub struct Nix(PathBuf);

impl Nix {
    /// Whether the machine has it.
    pub fn is_installed() -> bool {
        Command::new("nix-env")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// In a fresh folder below `disk`.
    pub fn new(disk: &Path) -> Result<Self, String> {
        let dir = disk.join("nix");
        if dir.exists() {
            // Its paths are read-only.
            let _unless_root = Command::new("chmod").args(["-R", "u+w"]).arg(&dir).status();
        }
        let nix = Self(fresh_folder(disk, "nix")?);
        let make = || -> std::io::Result<()> {
            for name in ["conf", "home", "state/profiles"] {
                fs::create_dir_all(nix.0.join(name))?;
            }
            // Others may pass, to a service's program.
            fs::set_permissions(&nix.0, fs::Permissions::from_mode(0o755))?;
            fs::write(nix.0.join("conf/nix.conf"), "build-users-group =\nsubstitute = false\n")
        };
        make().map_err(|e| format!("cannot make {}: {e}", nix.0.display()))?;
        Ok(nix)
    }

    /// What tells Nix where it is.
    pub fn environment(&self) -> [(&'static str, OsString); 5] {
        let at = |name: &str| self.0.join(name).into_os_string();
        [
            ("NIX_STORE_DIR", at("store")),
            ("NIX_STATE_DIR", at("state")),
            ("NIX_LOG_DIR", at("log")),
            ("NIX_CONF_DIR", at("conf")),
            ("HOME", at("home")),
        ]
    }

    /// A profile's link.
    pub fn profile(&self, name: &str) -> PathBuf {
        self.0.join("state/profiles").join(name)
    }

    fn run(&self, program: &str, words: &[&Path]) -> Result<String, String> {
        let mut command = Command::new(program);
        command.args(words).envs(self.environment()).stdin(Stdio::null());
        let output = command.output().map_err(|e| format!("{program}: {e}"))?;
        if !output.status.success() {
            return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Takes a directory into the store; its path there.
    pub fn add(&self, source: &Path) -> Result<PathBuf, String> {
        self.run("nix-store", &["--add".as_ref(), source]).map(PathBuf::from)
    }

    /// Switches a profile by `nix-env --set`; milliseconds.
    pub fn set(&self, profile: &str, to: &Path) -> Result<f64, String> {
        let begin = now_ns();
        self.run("nix-env", &["--profile".as_ref(), &self.profile(profile), "--set".as_ref(), to])?;
        Ok(milliseconds(begin, now_ns()))
    }
}
