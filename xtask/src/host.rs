//! What the tests find on this machine, and how a missing part gets there.

use crate::tools::{Outcome, find_program, run};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Debian package that tests use: its name, the program that shows whether it is there, and what for.
struct Package {
    name: &'static str,
    program: &'static str,
    why: &'static str,
}

const PACKAGES: &[Package] = &[
    Package { name: "nginx-light", program: "nginx", why: "an HTTP server with workers, to be healed" },
    Package { name: "redis-server", program: "redis-server", why: "a TCP server, to be healed" },
    Package { name: "python3", program: "python3", why: "an asyncio server to be healed; programs with sdnotify" },
    Package { name: "python3-venv", program: "python3", why: "private places for packages of PyPI" },
    Package { name: "nodejs", program: "node", why: "a server whose event loop is held up" },
    Package { name: "postgresql", program: "pg_ctlcluster", why: "a database that refuses connections" },
    Package {
        name: "prometheus-node-exporter",
        program: "prometheus-node-exporter",
        why: "metrics of somebody else's program",
    },
    Package { name: "nix-bin", program: "nix-env", why: "profiles of Nix, in a store that each test makes" },
    Package { name: "curl", program: "curl", why: "the transcripts in README.md break the demo services with it" },
    Package { name: "jq", program: "jq", why: "the ledger's chain can be checked without Hale" },
    Package { name: "zstd", program: "zstd", why: "releases that it compressed are deployed" },
    Package { name: "strace", program: "strace", why: "holds a supervisor back at a record of its journal" },
    Package { name: "systemd", program: "systemd-notify", why: "systemd-notify talks to Hale's notify socket" },
    Package { name: "qemu-system-x86", program: "qemu-system-x86_64", why: "machines whose power can be cut" },
    Package { name: "busybox-static", program: "busybox", why: "all programs of those machines, beside Hale" },
    Package { name: "cpio", program: "cpio", why: "packs their initramfs" },
    Package { name: "e2fsprogs", program: "mke2fs", why: "makes their disk" },
    Package { name: "mmdebstrap", program: "mmdebstrap", why: "the Debian of the machine with systemd" },
    Package { name: "musl-tools", program: "musl-gcc", why: "the static binary of Hale that they run" },
];

/// Tells invoke-rc.d and deb-systemd-invoke to start nothing while a package is installed (101 = forbidden).
/// Format: <https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt>
const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";
const POLICY: &str = "#!/bin/sh\nexit 101\n";

/// Packages of PyPI that tests use together, in the versions that they were written against.
pub struct PythonPackage {
    /// The folder of its venv.
    name: &'static str,
    /// The modules that its Python can import.
    modules: &'static str,
    requirements: &'static [&'static str],
    /// The environment variable that tells tests the Python that has it.
    pub variable: &'static str,
    /// The module of tests that need it, if any do.
    pub need: &'static str,
}

/// All of them.
pub const PYTHON_PACKAGES: [PythonPackage; 3] = [
    PythonPackage {
        name: "sdnotify",
        modules: "sdnotify",
        requirements: &["sdnotify==0.3.2"],
        variable: "HALE_TEST_SDNOTIFY_PYTHON",
        need: "needs_sdnotify",
    },
    PythonPackage {
        name: "schemathesis",
        modules: "schemathesis",
        requirements: &["schemathesis==4.32.5"],
        variable: "HALE_TEST_SCHEMATHESIS_PYTHON",
        need: "needs_schemathesis",
    },
    PythonPackage {
        name: "services",
        modules: "grpc, grpc_health, prometheus_client, celery, redis",
        requirements: &[
            "grpcio==1.85.3",
            "grpcio-health-checking==1.85.1",
            "prometheus-client==0.26.0",
            "celery==5.7.0",
            "packaging==26.4",
            "redis==8.1.0",
        ],
        variable: "HALE_TEST_SERVICES_PYTHON",
        need: "needs_services",
    },
];

/// supervisord, and the listener of its events that makes HTTP checks: for the benchmarks, and no test.
pub const SUPERVISOR: PythonPackage = PythonPackage {
    name: "supervisor",
    modules: "supervisor, superlance",
    requirements: &["supervisor==4.3.0", "superlance==2.0.0"],
    variable: "HALE_BENCH_SUPERVISOR_PYTHON",
    need: "",
};

/// The version of the test runner that is built when none is installed; the machine needs some minutes for it.
const NEXTEST_VERSION: &str = "0.9.143";

/// Whether this process is root, by the effective user of `/proc/self/status` (proc_pid_status(5)).
pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Whether a file can be a disk here, and frozen: tried, as far as that leaves nothing behind.
pub fn has_loop() -> bool {
    if !is_root() || ["mkfs.ext4", "fsfreeze", "losetup", "mount"].iter().any(|name| find_program(name).is_none()) {
        return false;
    }
    let image = std::env::temp_dir().join(format!("hale-xtask-{}.img", std::process::id()));
    let made = fs::File::create(&image).and_then(|file| file.set_len(1 << 20));
    let device = Command::new("losetup").args(["--find", "--show"]).arg(&image).output();
    let device = device.ok().filter(|output| output.status.success());
    let device = device.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let detached = device
        .is_some_and(|device| Command::new("losetup").arg("--detach").arg(device).status().is_ok_and(|s| s.success()));
    // What is left of it is an empty file among temporary ones.
    let _ = fs::remove_file(&image);
    made.is_ok() && detached
}

/// Whether this process may make cgroups below its own one of cgroup v2: tried, because mounts, permissions and
/// delegation all have a say.
pub fn has_cgroup2() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = own_cgroup2(&mounts, &groups) else { return false };
    let child = own.join(format!("hale-xtask-{}", std::process::id()));
    fs::create_dir(&child).is_ok() && fs::remove_dir(&child).is_ok()
}

/// Whether a Hale that is started from here can have the kernel enforce limits: the group has the controllers, and
/// either hands them down already or is the root, which may although processes are in it (cgroups(7)).
pub fn has_controllers() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = own_cgroup2(&mounts, &groups) else { return false };
    let file = if own.join("cgroup.type").exists() { "cgroup.subtree_control" } else { "cgroup.controllers" };
    let list = fs::read_to_string(own.join(file)).unwrap_or_default();
    let has = |name: &str| list.split_whitespace().any(|other| other == name);
    has("memory") && has("pids") && has("cpu") && has_cgroup2()
}

/// Whether memory groups of cgroup v1 can be made below this process's own one, and the kernel's log, which is what tells
/// of kills in them, has the process ids that are seen here (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
pub fn has_memory_v1() -> bool {
    if fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() != 0xEFFF_FFFC) {
        return false;
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.split_once(":memory:")).map(|(_, own)| own);
    own.is_some_and(|own| Path::new(&format!("/sys/fs/cgroup/memory{own}/memory.limit_in_bytes")).exists())
}

/// Whether a systemd can be process 1 of new namespaces here, with file systems of its own: tried, because containers differ.
pub fn can_boot_systemd() -> bool {
    const SCRIPT: &str = "mount --make-rprivate / && mount -t tmpfs x /tmp && cd /tmp && mkdir proc sys old && mount --rbind / old \
                          && mount -t proc proc proc && mount -t sysfs -o ro sysfs sys && mount -t cgroup2 cgroup2 sys/fs/cgroup";
    let namespaces = ["--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--ipc", "--uts"];
    let tried = || Command::new("unshare").args(namespaces).args(["sh", "-c", SCRIPT]).output();
    is_root()
        && Path::new("/lib/systemd/systemd").exists()
        && ["nsenter", "setpriv", "journalctl", "systemctl"].iter().all(|program| find_program(program).is_some())
        && has_cgroup2()
        && tried().is_ok_and(|output| output.status.success())
}

/// Formats: proc_pid_mountinfo(5), cgroups(7).
fn own_cgroup2(mounts: &str, groups: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

/// Installs the packages that are missing, if this is root on a system with apt; else the tests that need them
/// are left out later. No service is started.
pub fn install_packages() -> Outcome {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|package| find_program(package.program).is_none()).collect();
    let missing = if find_program("python3").is_some() && !has_venv_module() {
        missing.into_iter().chain(PACKAGES.iter().filter(|package| package.name == "python3-venv")).collect()
    } else {
        missing
    };
    if missing.is_empty() {
        println!("all Debian packages that tests use are there");
        return Ok(());
    }
    for package in &missing {
        println!("missing: {} ({})", package.name, package.why);
    }
    if !is_root() || find_program("apt-get").is_none() {
        println!("not installed: that takes root and apt-get; the tests that need them are left out");
        return Ok(());
    }
    let _guard = NoServiceStarts::new()?;
    let apt = |words: &[&str]| run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(words));
    apt(&["update", "-qq"])?;
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    apt(&[&["install", "-qq", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"], names.as_slice()].concat())
}

/// Whether the first python3 in PATH can make a venv: Debian ships that part in a package of its own.
fn has_venv_module() -> bool {
    Command::new("python3").args(["-c", "import ensurepip, venv"]).output().is_ok_and(|output| output.status.success())
}

/// As long as it lives, installing a package starts no service. A policy that the machine has already stays.
struct NoServiceStarts {
    made: bool,
}

impl NoServiceStarts {
    fn new() -> Outcome<Self> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY_FILE);
        match file.and_then(|mut file| file.write_all(POLICY.as_bytes())) {
            Ok(()) => Ok(Self { made: true }),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self { made: false }),
            Err(e) => Err(format!("cannot write {POLICY_FILE}: {e}")),
        }
    }
}

impl Drop for NoServiceStarts {
    fn drop(&mut self) {
        if self.made
            && let Err(e) = fs::remove_file(POLICY_FILE)
        {
            println!("warning: {POLICY_FILE} stays and keeps services from starting: {e}; remove it");
        }
    }
}

impl PythonPackage {
    /// A Python with them, in a venv in the target folder; `None` if it cannot be had here.
    pub fn python(&self, target: &Path) -> Option<PathBuf> {
        let venv = target.join("tools").join(self.name);
        let python = venv.join("bin/python");
        let works = || {
            let import = Command::new(&python).args(["-c", &format!("import {}", self.modules)]).output();
            import.is_ok_and(|output| output.status.success())
        };
        if works() {
            return Some(python);
        }
        let made = run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).and_then(|()| {
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(self.requirements))
        });
        if let Err(message) = made {
            println!("{message}");
        }
        works().then_some(python)
    }
}

/// The test runner: the installed one, or one built into the target folder.
pub fn nextest(root: &Path, target: &Path) -> Outcome<PathBuf> {
    if let Some(installed) = find_program("cargo-nextest") {
        return Ok(installed);
    }
    let tools = target.join("tools");
    let built = tools.join("bin/cargo-nextest");
    if !built.is_file() {
        let mut install = crate::tools::cargo(root, &["install", "cargo-nextest", "--locked", "--debug"]);
        run(install
            .args(["--version", NEXTEST_VERSION, "--root"])
            .arg(&tools)
            .env("CARGO_TARGET_DIR", tools.join("build")))?;
    }
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_on_unified_and_hybrid_hosts() {
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let groups = "8:pids:/a\n0::/b/c";
        assert_eq!(own_cgroup2(hybrid, groups), Some(PathBuf::from("/sys/fs/cgroup/unified/b/c")));
        assert_eq!(own_cgroup2("32 31 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw", groups), None);
    }
}
