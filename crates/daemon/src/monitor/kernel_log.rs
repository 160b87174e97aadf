//! The kernel's log, read for what its OOM killer says: the only witness where there is no memory controller.
//!
//! Format: <https://docs.kernel.org/admin-guide/abi-testing-files.html> (`/dev/kmsg`), `mm/oom_kill.c`.

use hale_core::memory::OomScope;
use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::{Errno, read};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// The largest record that the kernel gives out; a smaller buffer would lose it (`PRINTK_MESSAGE_MAX`).
const RECORD_BYTES: usize = 2_048;

/// How many records are read in one round; more are there at the next one, which follows at once. A kernel that fills
/// the log faster loses its oldest, and says so.
const RECORDS_PER_ROUND: usize = 256;

/// The inode of the first pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What the log says of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// In the first pid namespace.
    pub pid: i32,
    /// What had run out.
    pub scope: OomScope,
    /// It was killed; otherwise it was chosen, and is about to be.
    pub killed: bool,
}

/// `/dev/kmsg`, from the moment that it was opened on.
#[derive(Debug)]
pub struct KernelLog(OwnedFd);

impl KernelLog {
    /// Opens it behind its last record.
    ///
    /// # Errors
    ///
    /// There is none, as in many containers, or it needs `CAP_SYSLOG` (`kernel.dmesg_restrict`, proc_sys_kernel(5)), or its
    /// process ids would be those of other processes here: it has those of the first pid namespace.
    pub fn open() -> io::Result<Self> {
        if std::fs::metadata("/proc/self/ns/pid")?.ino() != FIRST_PID_NAMESPACE {
            return Err(io::Error::other("its process ids are not those of this pid namespace"));
        }
        let fd = open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        seek(&fd, SeekFrom::End(0))?;
        Ok(Self(fd))
    }

    /// Whom the OOM killer chose or killed, in the records since the last call.
    pub fn victims(&self) -> Vec<Victim> {
        let mut victims = Vec::new();
        let mut record = [0; RECORD_BYTES];
        for _ in 0..RECORDS_PER_ROUND {
            match read(&self.0, &mut record) {
                Ok(0) => break,
                Ok(length) => victims.extend(victim(&String::from_utf8_lossy(&record[..length]))),
                // EPIPE: records were lost before they were read. EINTR: as everywhere.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(_) => break,
            }
        }
        victims
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads one record: `<facility * 8 + level>,<number>,<microseconds>,<flags>;<text>`.
fn victim(record: &str) -> Option<Victim> {
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    // Facility 0 is the kernel's own: what others write to /dev/kmsg never has it, whatever they say.
    if priority >> 3 != 0 {
        return None;
    }
    let text = text.lines().next()?;
    if let Some(choice) = text.strip_prefix("oom-kill:") {
        // The last one: a program's name may look like one, and stands before it.
        let pid = choice.rsplit_once(",pid=")?.1.split(',').next()?.parse().ok()?;
        let scope =
            if choice.starts_with("constraint=CONSTRAINT_MEMCG") { OomScope::SomeLimit } else { OomScope::Host };
        return Some(Victim { pid, scope, killed: false });
    }
    let (why, killed) = text.split_once(": Killed process ")?;
    let scope = match why {
        "Memory cgroup out of memory" => OomScope::SomeLimit,
        _ if why.starts_with("Out of memory") => OomScope::Host,
        _ => return None,
    };
    Some(Victim { pid: killed.split(' ').next()?.parse().ok()?, scope, killed: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 wrote them.
    const CHOSEN: &str = "6,812,93120,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
                          oom_memcg=/hale-test,task_memcg=/hale-test,task=a,pid=1,x,pid=4321,uid=0\n";
    const KILLED: &str = "3,813,93125,-;Memory cgroup out of memory: Killed process 4321 (a,pid=1,x) total-vm:10kB, \
                          anon-rss:16kB, file-rss:4kB, shmem-rss:0kB, UID:0 pgtables:64kB oom_score_adj:0\n";

    #[test]
    fn victims_are_read_and_their_names_are_not_believed() {
        let told = |killed| Some(Victim { pid: 4321, scope: OomScope::SomeLimit, killed });
        assert_eq!(victim(CHOSEN), told(false));
        assert_eq!(victim(KILLED), told(true));
        let host = "3,9,1,-;Out of memory: Killed process 7 (bot) total-vm:1kB\n";
        assert_eq!(victim(host), Some(Victim { pid: 7, scope: OomScope::Host, killed: true }));
    }

    #[test]
    fn what_a_program_writes_into_the_log_is_not_the_kernels_word() {
        // Facility 1, "user": the kernel gives it to every line that comes from elsewhere.
        let forged = KILLED.replacen("3,", "11,", 1);
        assert_eq!(victim(&forged), None);
        assert_eq!(victim("6,1,1,-;EXT4-fs (vda): mounted\n SUBSYSTEM=block\n"), None);
        assert_eq!(victim("nonsense"), None);
    }
}
