//! The Debian of guests with systemd: as few packages as systemd needs, made by mmdebstrap, once for each release.

use super::image::{GuestFile, disk as make_disk, fingerprint, remove_folder};
use crate::host;
use crate::tools::{Outcome, find_program, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A release of Debian, for its systemd; the kernel is always that of this machine's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12, systemd 252.
    Bookworm,
    /// Debian 13, systemd 257.
    Trixie,
}

impl Release {
    fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// mmdebstrap(1): the packages that no Debian can do without, and systemd as /sbin/init. Without udev, dbus and kmod,
/// which nothing here needs, a boot takes 12 s; without texts for people it is 80 MiB.
const RECIPE: &[&str] = &[
    "--mode=root",
    "--variant=essential",
    "--include=systemd-sysv,usr-is-merged",
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/zoneinfo/*",
];

/// Size of the disk: the system, the ledger's ballast of 16 MiB, and what a scenario writes.
const DISK_MIB: u32 = 256;

/// What the kernel is told beside the words that all guests have (kernel-command-line(7)).
pub const KERNEL_ARGUMENTS: [&str; 5] = [
    "rdinit=/etc/guest/enter",
    "systemd.unit=multi-user.target",
    "systemd.wants=agent.service",
    "systemd.mask=getty.target",
    // What units say is on the console, and so in the log of the scenario.
    "systemd.journald.forward_to_console=1",
];

/// Where the initramfs has what it lays over the disk.
const LAID_OVER: &str = "/overlay";

/// The files that each of these guests has.
pub fn files() -> [GuestFile; 2] {
    [
        GuestFile::text("/etc/systemd/system/agent.service", include_str!("guest/agent.service")),
        // With one this is no first boot, which would set up more.
        GuestFile::text("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ]
}

/// A file of the guest, where the initramfs has it.
pub fn laid_over(file: &GuestFile) -> GuestFile {
    GuestFile { path: format!("{LAID_OVER}{}", file.path), ..file.clone() }
}

/// What this machine lacks to make it.
pub fn missing() -> Option<String> {
    if find_program("mmdebstrap").is_none() {
        return Some("no mmdebstrap (Debian: mmdebstrap)".to_owned());
    }
    (!host::is_root()).then(|| "this user is not root".to_owned())
}

/// Makes `disk` a new disk with the system on it.
pub fn disk(cache: &Path, release: Release, disk: &Path) -> Outcome {
    let made = image(cache, release)?;
    // It is mostly holes.
    run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&made).arg(disk))
}

/// The disk as it is made once for each release and [`RECIPE`]. A stable release changes little: what is there stays.
fn image(cache: &Path, release: Release) -> Outcome<PathBuf> {
    // Whoever comes second finds what the first one has made.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = cache.join("debian");
    let made = folder.join(format!("{}_{:016x}.img", release.suite(), fingerprint(RECIPE)));
    if made.is_file() {
        return Ok(made);
    }
    let tree = folder.join("tree");
    if tree.exists() {
        remove_folder(&tree)?;
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    bootstrap(release, &tree, &folder.join("mmdebstrap.log"))?;
    let half_made = folder.join("half-made");
    make_disk(&half_made, DISK_MIB, Some(&tree))?;
    remove_folder(&tree)?;
    // Last, because its name tells that all is there.
    fs::rename(&half_made, &made).map_err(|e| format!("cannot rename {}: {e}", half_made.display()))?;
    Ok(made)
}

/// What mmdebstrap and all the packages say is only of interest when it fails.
fn bootstrap(release: Release, tree: &Path, log: &Path) -> Outcome {
    let failed = |e: std::io::Error| format!("cannot run mmdebstrap: {e}");
    let out = fs::File::create(log).map_err(failed)?;
    let both = out.try_clone().map_err(failed)?;
    run(Command::new("mmdebstrap").args(RECIPE).arg(release.suite()).arg(tree).stdout(both).stderr(out))
        .map_err(|message| format!("{message}; it said why in {}", log.display()))
}
