//! What the host lets Hale have: open files, processes, threads.

use super::{Finding, Severity, read};
use hale_core::policy::{Policy, ServicePolicy};

/// Descriptors that the guardian and the supervisor each have whatever is configured, with room for clients.
const FILES_FOR_HALE: u64 = 128;

/// The most of them for one running service, counted in /proc: pidfd, cgroup, output, notify socket and files of its
/// cgroup, and what a probe of each check has in flight comes beside.
const FILES_PER_SERVICE: u64 = 10;

/// Descriptors that one probe in flight has: its connection, or pidfd, pipes and group of a program.
const FILES_PER_CHECK: u64 = 4;

/// The most that a service with a notify socket can leave with Hale.
const FILES_LEFT_PER_SERVICE: u64 = 32;

/// Tasks of Hale itself: three processes and their threads, counted in /proc, with room.
const TASKS_FOR_HALE: u64 = 64;

/// Below these limits something fails.
pub fn look(policy: &Policy, guardian: Option<i32>) -> Vec<Finding> {
    let process = guardian.map_or_else(|| String::from("self"), |pid| pid.to_string());
    let mut found = Vec::new();
    match read(format!("/proc/{process}/limits")) {
        Ok(text) => found.extend(of_process(policy, &text, guardian.is_some())),
        Err(error) => found.push(Finding::unseen("limits", &format!("/proc/{process}/limits"), &error.to_string())),
    }
    match read("/proc/sys/kernel/pid_max") {
        Ok(text) => found.extend(of_tasks(policy, "kernel.pid_max", &text, "sysctl kernel.pid_max=4194304")),
        Err(error) => found.push(Finding::unseen("limits", "kernel.pid_max", &error.to_string())),
    }
    match read("/proc/sys/fs/file-nr") {
        Ok(text) => found.extend(of_files(&text)),
        Err(error) => found.push(Finding::unseen("limits", "fs.file-nr", &error.to_string())),
    }
    // No file: the root group, or no controller, which the features tell of.
    if let Some((group, text)) =
        own_group(&process).and_then(|group| read(format!("{group}/pids.max")).ok().map(|text| (group, text)))
    {
        found.extend(of_tasks(policy, &format!("pids.max of {group}"), &text, "set TasksMax=infinity in Hale's unit"));
    }
    found
}

fn own_group(process: &str) -> Option<String> {
    let groups = read(format!("/proc/{process}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/').to_owned();
    let mounts = read("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?.to_owned();
    // The guardian has a leaf for itself below the group of all.
    Some(format!("{mount}{}", path.strip_suffix("/hale").unwrap_or(&path)))
}

/// Descriptors that Hale may need at once.
fn files_needed(policy: &Policy) -> u64 {
    let of_service = |service: &ServicePolicy| {
        let left = if service.wants_notify() { FILES_LEFT_PER_SERVICE } else { 0 };
        FILES_PER_SERVICE + service.listen.len() as u64 + FILES_PER_CHECK * service.checks.len() as u64 + left
    };
    let of_services: u64 = policy.services.values().map(|service| of_service(service)).sum();
    let of_dependencies: u64 =
        policy.dependencies.values().map(|each| FILES_PER_CHECK * each.checks.len() as u64).sum();
    FILES_FOR_HALE + of_services + of_dependencies
}

/// Tasks that the services may have, where a limit says so, else one each.
fn tasks_needed(policy: &Policy) -> u64 {
    let of_service = |service: &ServicePolicy| 1 + u64::try_from(service.checks.len()).unwrap_or(u64::MAX);
    TASKS_FOR_HALE + policy.services.values().map(|service| of_service(service)).sum::<u64>()
}

/// Soft and hard value of a line of proc_pid_limits(5); `None`: unlimited.
fn limit(text: &str, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace().map(|word| word.parse().ok());
    Some((words.next()?, words.next()?))
}

fn of_process(policy: &Policy, text: &str, runs: bool) -> Vec<Finding> {
    let whose = if runs { "the running Hale" } else { "this shell" };
    let mut found = Vec::new();
    let needed = files_needed(policy);
    match limit(text, "Max open files") {
        // Hale raises the soft one to the hard one.
        Some((_, Some(hard))) if hard < needed => found.push(Finding::new(
            "limits",
            Severity::Fault,
            &format!("{whose} may have {hard} open files (hard RLIMIT_NOFILE); this configuration may need {needed}"),
            "services are not started, probes fail and clients wait once they are used up",
            &format!("set LimitNOFILE=1024:{} in Hale's unit, or raise `ulimit -Hn`", needed.next_power_of_two()),
        )),
        Some(_) => {}
        None => found.push(Finding::unseen("limits", "RLIMIT_NOFILE", "no such line in /proc/PID/limits")),
    }
    let needed = tasks_needed(policy);
    if let Some((Some(soft), _)) = limit(text, "Max processes")
        && soft < needed
        && !rustix::process::geteuid().is_root()
    {
        found.push(Finding::new(
            "limits",
            Severity::Fault,
            &format!("{whose} may have {soft} processes (RLIMIT_NPROC); this configuration needs {needed} at least"),
            "starts and exec checks fail once the user's processes are as many",
            "set LimitNPROC=infinity in Hale's unit, or raise `ulimit -u`",
        ));
    }
    found
}

fn of_tasks(policy: &Policy, name: &str, text: &str, mend: &str) -> Option<Finding> {
    let needed = tasks_needed(policy);
    let max: u64 = text.trim().parse().ok().filter(|&max| max < needed)?;
    let what = format!("{name} is {max}; this configuration needs {needed} tasks at least");
    let cost = "starts and exec checks fail once there are as many";
    Some(Finding::new("limits", Severity::Fault, &what, cost, mend))
}

/// `file-nr` of proc_sys_fs(5): allocated, free, maximum.
fn of_files(text: &str) -> Option<Finding> {
    let mut words = text.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(u64::MAX));
    let (used, max) = (words.next()?, words.nth(1)?);
    (used / 9 >= max / 10).then(|| {
        let what = format!("{used} files are open on this host, of at most {max} (fs.file-max)");
        let cost = "when they are used up nobody but root can open or start anything";
        Finding::new("limits", Severity::Risk, &what, cost, "find who has them open, or raise it: sysctl fs.file-max")
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::policy;
    use super::*;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
                          Max processes             unlimited            unlimited            processes \n\
                          Max open files            64                   140                  files     \n";

    #[test]
    fn open_files_are_counted_for_what_is_configured() {
        let one = policy("[service.a]\ncommand = [\"x\"]\n");
        assert_eq!(of_process(&one, LIMITS, true), []);
        let more = policy("[service.a]\ncommand = [\"x\"]\nstart.ready = \"notify\"\n");
        let found = of_process(&more, LIMITS, true);
        assert!(found[0].what.contains("the running Hale may have 140 open files"), "{found:?}");
        assert!(found[0].what.ends_with("may need 170") && found[0].mend.contains("1024:256"), "{found:?}");
        assert_eq!(of_process(&more, &LIMITS.replace("140 ", "unlimited"), true), []);
        assert_eq!(of_process(&more, "", true)[0].severity, Severity::Unseen);
    }

    #[test]
    fn tasks_and_files_of_the_host_are_told_only_when_they_are_few() {
        let one = policy("[service.a]\ncommand = [\"x\"]\n");
        assert!(of_tasks(&one, "pids.max", "max\n", "").is_none() && of_tasks(&one, "pids.max", "65\n", "").is_none());
        assert!(of_tasks(&one, "pids.max", "64\n", "").unwrap().what.contains("pids.max is 64; "));
        assert!(of_files("800\t0\t1000\n").is_none());
        assert!(of_files("900\t0\t1000\n").unwrap().what.starts_with("900 files are open"));
    }
}
