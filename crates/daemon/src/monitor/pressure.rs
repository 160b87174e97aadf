//! Hears from the kernel that some service waits for memory (<https://docs.kernel.org/accounting/psi.html>).
//!
//! There is one trigger, on the group that all services are in, and whoever hears it looks which of them it is about. One
//! for each service would be a kernel thread for each, and the group of a service is made anew after a kill: to close a
//! trigger took 8 to 12 ms, for which the loop and the next process would have to wait (Linux 6.18).

use crate::execute::tree::Trees;
use rustix::io::pread;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Some task waited for 15 % of the time: in each second (`CAP_SYS_RESOURCE`), or in each two seconds, which Linux 6.5 and
/// later grant to everybody. A service that counts as stalled has that behind it several times over. The NUL is what the
/// kernel's `psi_write` overwrites.
const TRIGGERS: [&str; 2] = ["some 150000 1000000\0", "some 300000 2000000\0"];

/// An open trigger. It is gone when this is dropped.
#[derive(Debug)]
pub struct StallTrigger(File);

impl StallTrigger {
    /// For all services together.
    ///
    /// # Errors
    ///
    /// There is no cgroup v2 (`ENOENT`), or as [`Self::on_host`].
    pub fn open(trees: &Trees) -> io::Result<Self> {
        arm(|| trees.open_file("memory.pressure").map(File::from))
    }

    /// For the whole host.
    ///
    /// # Errors
    ///
    /// `ENOENT`: a kernel without PSI; `EOPNOTSUPP`: it is turned off; `EINVAL`, `EPERM`: the kernel wants
    /// `CAP_SYS_RESOURCE` for it.
    pub fn on_host() -> io::Result<Self> {
        arm(|| File::options().read(true).write(true).open(Path::new("/proc/pressure/memory")))
    }

    /// Becomes ready with `EPOLLPRI` when somebody waits for memory, once for each window; looking silences it.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Whether it can become ready again: not when somebody has removed the group, and then it is ready for ever.
    #[must_use]
    pub fn lives(&self) -> bool {
        pread(&self.0, &mut [0; 1], 0).is_ok()
    }
}

/// Each needs a descriptor of its own: what was refused once cannot be asked for something else before Linux 5.17.
fn arm(open: impl Fn() -> io::Result<File>) -> io::Result<StallTrigger> {
    let armed = |trigger: &str| {
        let mut file = open()?;
        file.write_all(trigger.as_bytes()).map(|()| StallTrigger(file))
    };
    armed(TRIGGERS[0]).or_else(|_| armed(TRIGGERS[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_takes_a_trigger_wherever_it_has_pressure_files_for_everybody() {
        // The kernel that grants it to everybody lets everybody write.
        use std::os::unix::fs::PermissionsExt;
        let for_all =
            std::fs::metadata("/proc/pressure/memory").is_ok_and(|file| file.permissions().mode() & 0o002 != 0);
        if for_all {
            StallTrigger::on_host().unwrap();
        }
    }

    mod needs_cgroup2 {
        use super::super::*;
        use crate::execute::tree::instance;

        #[test]
        fn the_kernel_takes_the_trigger_until_the_group_is_removed() {
            let trees = Trees::open(&instance(Path::new(&format!("/pressure-{}", std::process::id()))));
            let trigger = StallTrigger::open(&trees).unwrap();
            assert!(trigger.lives());
            trees.close().unwrap();
            assert!(!trigger.lives());
        }
    }
}
