//! What Hale uses of the kernel and this host does not have: what it costs, and how to mend it.

use super::kernel_log::KernelLog;
use super::pressure::StallTrigger;
use crate::execute::tree::delegate::{Controller, host_lacks, lacking_under};
use crate::execute::tree::has_unique_pidfds;
use rustix::io::Errno;

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// What, in a few words.
    pub feature: String,
    /// What Hale cannot do without it.
    pub cost: String,
    /// How to get it.
    pub mend: String,
}

/// Everything that is missing, the most important first: on this host, and for the services of this `guardian`. Makes no
/// group and changes nothing.
#[must_use]
pub fn missing(guardian: Option<i32>) -> Vec<Missing> {
    let mut found = Vec::new();
    let mut tell = |feature: &str, cost: &str, mend: &str| {
        found.push(Missing { feature: feature.to_owned(), cost: cost.to_owned(), mend: mend.to_owned() });
    };
    let lacking = host_lacks();
    match &lacking {
        None => tell(
            "cgroup v2",
            "process trees are found by a variable of their environment, which a process can lose, and nothing can be limited",
            "mount it: `mount -t cgroup2 none /sys/fs/cgroup`; systemd does so with systemd.unified_cgroup_hierarchy=1 \
             on the kernel's command line",
        ),
        Some(lacking) => {
            for controller in lacking {
                let (name, key) = (controller.name(), controller.key());
                let also = match controller {
                    Controller::Memory => ", and OOM kills are only known from the kernel's log",
                    Controller::Tasks | Controller::Cpu => "",
                };
                tell(
                    &format!("cgroup v2 controller {name}"),
                    &format!("{key} is not enforced{also}"),
                    &format!(
                        "boot with cgroup_no_v1={name}, so that it is not bound to a hierarchy of v1; the kernel must be \
                         built with it (/proc/cgroups lists what it has)"
                    ),
                );
            }
        }
    }
    // What the host has and Hale's group does not.
    let host_has = |controller| lacking.as_ref().is_some_and(|lacking| !lacking.contains(&controller));
    for lacking in guardian.and_then(lacking_under).unwrap_or_default() {
        if host_has(lacking.controller) {
            let (name, key) = (lacking.controller.name(), lacking.controller.key());
            tell(
                &format!("cgroup v2 controller {name} for Hale's services"),
                &format!("{key} is not enforced"),
                &lacking.why.to_string(),
            );
        }
    }
    if lacking.is_none_or(|lacking| lacking.contains(&Controller::Memory))
        && let Err(error) = KernelLog::open()
    {
        tell(
            "kernel log",
            &format!("an OOM kill looks like any other SIGKILL: /dev/kmsg: {error}"),
            "run Hale in the first pid namespace, with CAP_SYSLOG and with /dev/kmsg in place, or have the memory controller",
        );
    }
    match StallTrigger::on_host() {
        Ok(_) => {}
        Err(error)
            if matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::INVAL | Errno::PERM)) =>
        {
            tell(
                "events of pressure stall information",
                "a service that hangs because it waits for memory is not told from one that hangs for another reason",
                "run Hale with CAP_SYS_RESOURCE, or Linux 6.5 or later",
            );
        }
        Err(_) => tell(
            "pressure stall information",
            "incidents do not say how much time was lost to waiting for memory, and a service that hangs because it waits \
             for memory is not told from one that hangs for another reason",
            "a kernel built with CONFIG_PSI; boot with psi=1 where it is off by default",
        ),
    }
    if !has_unique_pidfds() {
        tell(
            "pidfds with numbers of their own",
            "a process is told from a later one of the same pid by its start time, to a hundredth of a second",
            "Linux 6.9 or later",
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_here_can_be_seen_in_sys_too() {
        let has_memory = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| {
            let place = line.contains(" - cgroup2 ").then(|| line.split(' ').nth(4)).flatten();
            place.is_some_and(|place| {
                std::fs::read_to_string(format!("{place}/cgroup.controllers")).is_ok_and(|list| list.contains("memory"))
            })
        });
        let told = missing(None).iter().any(|missing| missing.feature == "cgroup v2 controller memory");
        let no_cgroup = missing(None).iter().any(|missing| missing.feature == "cgroup v2");
        assert_eq!(told || no_cgroup, !has_memory);
    }
}
