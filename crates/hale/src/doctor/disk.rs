//! The file systems of Hale's directories: room, and what they promise.

use super::{Finding, Severity};
use hale_core::memory::Size;
use hale_core::policy::Policy;
use rustix::fs::{StatVfsMountFlags, statfs, statvfs};
use std::path::{Path, PathBuf};

/// Free inodes that Hale may need: segments of the ledger and files of output, a few hundred at most each.
const INODES: u64 = 1_000;

/// Room for the ledger beside the services' output: years of records of a busy host.
const LEDGER_BYTES: u64 = 256 << 20;

/// What one file system is, as statvfs(3) and statfs(2) tell.
struct Place {
    kind: &'static str,
    free_bytes: u64,
    inodes: u64,
    free_inodes: u64,
    read_only: bool,
}

/// What is wrong with them.
pub fn look(policy: &Policy) -> Vec<Finding> {
    let host = &policy.host;
    let of_log = |service: &hale_core::policy::ServicePolicy| {
        service.log.max_size_bytes.saturating_mul(u64::from(service.log.keep) + 1)
    };
    let logs = policy.services.values().map(|service| of_log(service)).fold(0_u64, u64::saturating_add);
    let places = [
        ("state_dir", &host.state_dir, LEDGER_BYTES),
        ("log_dir", &host.log_dir, logs),
        ("runtime_dir", &host.runtime_dir, 16 << 20),
    ];
    let of_one = |(key, path, needed): (&str, &String, u64)| match place(path) {
        Ok(place) => judge(key, path, needed, &place),
        Err(error) => vec![Finding::unseen("disk", &format!("{key} {path}"), &error.to_string())],
    };
    places.into_iter().flat_map(of_one).collect()
}

/// The nearest directory that is there: the rest is made when Hale starts.
pub fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn place(path: &str) -> rustix::io::Result<Place> {
    let path = existing(Path::new(path));
    let (room, kind) = (statvfs(&path)?, statfs(&path)?);
    Ok(Place {
        kind: name(kind.f_type),
        free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        inodes: room.f_files,
        free_inodes: room.f_favail,
        read_only: room.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}

/// The kinds that matter here (linux/magic.h, statfs(2)).
fn name(magic: i64) -> &'static str {
    match magic {
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "smb",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        _ => "disk",
    }
}

fn judge(key: &str, path: &str, needed: u64, place: &Place) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tell = |severity, what: &str, cost: &str, mend: &str| {
        found.push(Finding::new("disk", severity, &format!("{key} {path} {what}"), cost, mend));
    };
    let in_memory = matches!(place.kind, "tmpfs" | "ramfs");
    match key {
        "runtime_dir" if !in_memory => tell(
            Severity::Risk,
            &format!("is not on a tmpfs, but on: {}", place.kind),
            "a disk that hangs can hold up healing: the runtime journal is on it",
            "set host.runtime_dir to a directory below /run, or mount a tmpfs there",
        ),
        "state_dir" if in_memory || place.kind == "overlay" => tell(
            Severity::Risk,
            &format!(
                "is on {}, which is lost with {}",
                place.kind,
                if in_memory { "the boot" } else { "its container" }
            ),
            "the ledger is lost with it, and the budget of reboots with the ledger",
            "set host.state_dir to a directory of a disk, or mount a volume there",
        ),
        _ => {}
    }
    if matches!(place.kind, "nfs" | "smb" | "9p" | "fuse") {
        tell(
            Severity::Risk,
            &format!("is on {}", place.kind),
            "locks may not hold between hosts, what is synced may still be lost, and a server that is away hangs the writers",
            &format!("set host.{key} to a directory of a local disk"),
        );
    }
    if place.read_only {
        let cost = "nothing can be written there: no record is durable, so nothing that needs one is done";
        tell(
            Severity::Fault,
            "is on a read-only file system",
            cost,
            "mount it read-write; look for its errors in the kernel's log",
        );
    }
    if place.free_bytes < needed {
        let free = Size(place.free_bytes);
        tell(
            Severity::Risk,
            &format!("has {free} free; this configuration may write {}", Size(needed)),
            "when it is full, output is dropped and counted, records wait in memory, orders are carried out without theirs, and the machine is not rebooted",
            "make room, or lower log.max_size and log.keep",
        );
    }
    // Some file systems (btrfs) count none.
    if place.inodes > 0 && place.free_inodes < INODES {
        let what = format!("has {} free inodes of {}", place.free_inodes, place.inodes);
        tell(
            Severity::Risk,
            &what,
            "no file can be made when there are none, whatever room there is",
            "delete small files there",
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Place = Place { kind: "disk", free_bytes: 1 << 40, inodes: 0, free_inodes: 0, read_only: false };

    fn told(key: &str, place: &Place) -> Vec<String> {
        judge(key, "/x", 1 << 30, place).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn what_a_file_system_cannot_do_is_told_with_its_numbers() {
        assert!(told("state_dir", &GOOD).is_empty());
        assert!(told("runtime_dir", &Place { kind: "tmpfs", ..GOOD }).is_empty());
        assert_eq!(told("runtime_dir", &GOOD), ["runtime_dir /x is not on a tmpfs, but on: disk"]);
        assert_eq!(
            told("state_dir", &Place { kind: "overlay", ..GOOD }),
            ["state_dir /x is on overlay, which is lost with its container"]
        );
        let bad = Place { kind: "nfs", free_bytes: 1 << 20, inodes: 5_000, free_inodes: 3, read_only: true };
        assert_eq!(
            told("log_dir", &bad),
            [
                "log_dir /x is on nfs",
                "log_dir /x is on a read-only file system",
                "log_dir /x has 1 MiB free; this configuration may write 1 GiB",
                "log_dir /x has 3 free inodes of 5000"
            ]
        );
    }

    #[test]
    fn the_kernel_is_asked_about_the_nearest_directory_that_is_there() {
        let place_of_proc = place("/dev/shm/not/there").unwrap();
        assert_eq!((place_of_proc.kind, place_of_proc.read_only), ("tmpfs", false));
        assert_eq!(existing(Path::new("/proc/self/nothing/below")), Path::new("/proc/self"));
    }
}
