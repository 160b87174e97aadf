//! The machine that a scenario asks for, and QEMU's command line for it.

use super::debian::{self, Release};
use super::guest::Guest;
use super::image::{self, GuestFile, Kernel};
use crate::tools::Outcome;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the disk of the guest does with a write, in QEMU's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCache {
    /// A write that the guest was told of is in the file: it survives that QEMU is killed.
    WriteThrough,
    /// The guest is told that there is a cache to flush, and flushes are ignored. QEMU itself keeps back nothing of a
    /// raw image: what is lost beyond `WriteThrough` would take the power of the real machine.
    Unsafe,
}

impl DiskCache {
    fn word(self) -> &'static str {
        match self {
            Self::WriteThrough => "writethrough",
            Self::Unsafe => "unsafe",
        }
    }
}

/// What is process 1 of a guest, and what its disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// busybox, all in memory; the disk is mounted on /var/lib/hale.
    Busybox,
    /// systemd, on a Debian that is the disk. `hale` is in /usr/bin, and only its unit starts it.
    Debian(Release),
}

/// A machine; `Machine::default()` is one with busybox, 512 MiB, one processor, a disk, and no hardware timer.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Process 1.
    pub system: System,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Emulated processors.
    pub processors: u32,
    /// The disk's cache. It is /dev/vda, ext4.
    pub disk_cache: DiskCache,
    /// The size of busybox's disk, in MiB, of which the file of the disk takes what is written.
    pub disk_mib: u32,
    /// Words for the kernel; a later word wins over an earlier one, these come last.
    pub kernel_arguments: Vec<&'static str>,
    /// Modules to load besides those of the disk, each with its parameters: `"i6300esb heartbeat=4"`. A new name
    /// has to be in `image.rs`, too.
    pub modules: Vec<&'static str>,
    /// Words for QEMU, such as [`HARDWARE_TIMER`].
    pub qemu_arguments: Vec<&'static str>,
    /// Files of the guest. With `/etc/hale/hale.toml` among them busybox starts `hale run` at boot.
    pub files: Vec<GuestFile>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            system: System::Busybox,
            memory_mib: 512,
            processors: 1,
            disk_cache: DiskCache::WriteThrough,
            disk_mib: DISK_MIB,
            kernel_arguments: Vec::new(),
            modules: Vec::new(),
            qemu_arguments: Vec::new(),
            files: Vec::new(),
        }
    }
}

/// QEMU's words for a hardware timer that resets the guest; its module is `i6300esb`, with `heartbeat=SECONDS`. It has
/// two stages: the reset comes after twice the heartbeat.
pub const HARDWARE_TIMER: [&str; 4] = ["-device", "i6300esb", "-action", "watchdog=reset"];

/// Size of the disk: the ledger's ballast is 16 MiB, and a scenario writes a few more.
const DISK_MIB: u32 = 128;

/// What is the same for all guests of a run, and where this scenario's files are.
#[derive(Debug)]
pub struct Bench {
    /// `target/vm`, for what is made once.
    pub cache: PathBuf,
    /// The kernel.
    pub kernel: Kernel,
    /// The static binary.
    pub hale: PathBuf,
    /// The scenario's own folder below `target/vm`: disk, initramfs, console log.
    pub folder: PathBuf,
    /// Whether the large counts are asked for.
    pub full: bool,
    /// Where randomness starts: printed, so that a run can be repeated.
    pub seed: u64,
}

impl Bench {
    /// Makes the machine with a new disk and boots it; returns once it takes commands.
    pub fn boot_new(&self, machine: &Machine) -> Outcome<Guest> {
        match machine.system {
            System::Busybox => image::disk(&self.disk(), machine.disk_mib, None)?,
            System::Debian(release) => debian::disk(&self.cache, release, &self.disk())?,
        }
        self.boot(machine)
    }

    /// Boots the machine on the disk that is there; returns once it takes commands.
    pub fn boot(&self, machine: &Machine) -> Outcome<Guest> {
        let modules = ["virtio_pci", "virtio_blk", "virtio_rng", "ext4"].iter().chain(&machine.modules);
        let modules: String = modules.map(|module| format!("{module}\n")).collect();
        let mut files = vec![GuestFile::text("/etc/guest/modules", &modules)];
        match machine.system {
            System::Busybox => files.extend(machine.files.iter().cloned()),
            System::Debian(_) => files.extend(debian::files().iter().chain(&machine.files).map(debian::laid_over)),
        }
        let initramfs = self.folder.join("initramfs");
        image::initramfs(&self.kernel, &self.hale, &files, &initramfs)?;
        Guest::start(self.qemu(machine, &initramfs), &self.folder.join("console.log"))
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    /// Emulation only: a /dev/kvm may be there and not work. Standard input is the agent's line, standard output the
    /// QMP monitor, standard error the console: sockets that [`Guest::start`] hands over, so there is nothing to
    /// connect to, and nothing to wait for. setpriv ends QEMU when we end.
    fn qemu(&self, machine: &Machine, initramfs: &Path) -> Command {
        let Machine { system, memory_mib, processors, disk_cache, kernel_arguments, qemu_arguments, .. } = machine;
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-accel", "tcg", "-no-user-config", "-nodefaults", "-display", "none", "-name", "hale-guest"])
            .args(["-m", &memory_mib.to_string(), "-smp", &processors.to_string()])
            .args(["-chardev", "socket,id=console,fd=2", "-serial", "chardev:console"])
            .args(["-chardev", "socket,id=agent,fd=0", "-serial", "chardev:agent"])
            .args(["-chardev", "socket,id=qmp,fd=1", "-mon", "chardev=qmp,mode=control"])
            .args(["-device", "virtio-rng-pci"])
            .arg("-drive")
            .arg(format!("file={},if=virtio,format=raw,cache={}", self.disk().display(), disk_cache.word()))
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(qemu_arguments);
        let of_system: &[&str] = match system {
            System::Busybox => &[],
            System::Debian(_) => &debian::KERNEL_ARGUMENTS,
        };
        let words = ["console=ttyS0", "quiet", "panic=1"].iter().chain(of_system).chain(kernel_arguments).copied();
        qemu.arg("-append").arg(words.collect::<Vec<_>>().join(" "));
        qemu
    }
}
