//! A supervisor that the kernel does not let run any more is replaced, and no service notices; a guardian that is wedged so, or
//! that real-time programs leave no processor, ends in a reset by the hardware timer.

use super::hardware_timer::{CONFIGURATION, GUARDIAN, RESET_WITHIN, boot_new, expect_reset};
use super::{expect_pid, pid_of};
use crate::tools::Outcome;
use crate::vm::machine::Bench;

/// As the guest's shell finds it.
const SUPERVISOR: &str = "$(for pid in $(pidof hale); do grep -q supervisor /proc/$pid/cmdline && echo $pid; done)";

pub fn run(bench: &Bench) -> Outcome {
    let mut guest = boot_new(bench, CONFIGURATION)?;
    let web = pid_of(&mut guest, "web")?;
    guest.must(&freeze(SUPERVISOR))?;
    guest.await_console("the supervisor makes no progress", RESET_WITHIN)?;
    guest.await_console("took over", RESET_WITHIN)?;
    // The freezer lets a SIGKILL through.
    guest.must("test -z \"$(cat /sys/fs/cgroup/ice/cgroup.procs)\"")?;
    guest.must("hale start web && hale ledger verify")?;
    expect_pid(&mut guest, "web", web)?;

    guest.send(&freeze(GUARDIAN))?;
    expect_reset(&mut guest, "nobody petted the timer", 1)?;

    // Real-time programs have 95 % of the time where nobody allows them all of it (sched(7)).
    guest.send("echo -1 >/proc/sys/kernel/sched_rt_runtime_us; chrt -f 99 sh -c 'while :; do :; done'")?;
    expect_reset(&mut guest, "nobody petted the timer", 2)
}

/// Has the kernel's freezer stop a process: unlike SIGSTOP no SIGCONT helps, and its parent is told nothing.
fn freeze(process: &str) -> String {
    format!("cd /sys/fs/cgroup && mkdir -p ice && echo {process} >ice/cgroup.procs && echo 1 >ice/cgroup.freeze")
}
