//! Processes and the machine as /proc shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The pid's descendants and itself, without those that run `agent`: what the supervisor itself costs.
pub fn supervisor_pids(root: u32, agent: &Path) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = pid.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        open.extend(children.remove(&pid).into_iter().flatten());
        if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe != agent) {
            found.push(pid);
        }
    }
    found
}

/// Everybody who runs `program`.
pub fn running_programs(program: &Path) -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)).collect()
}

/// The fourth field of proc_pid_stat(5), behind the name in parentheses.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Memory of `pids` in MiB: proportional set size (proc_pid_smaps(5), rolled up), and its anonymous part.
pub fn pss_mib(pids: &[u32]) -> (f64, f64) {
    let mut sums = [0_u64; 2];
    for pid in pids {
        let Ok(smaps) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        for (sum, key) in sums.iter_mut().zip(["Pss:", "Pss_Anon:"]) {
            let line = smaps.lines().find_map(|line| line.strip_prefix(key));
            *sum += line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    let [pss, anon] = sums.map(|kib| kib as f64 / 1024.0);
    (pss, anon)
}

/// Memory of a process that it shares with nobody, in MiB (proc_pid_smaps(5), rolled up).
pub fn private_mib(pid: u32) -> f64 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let private = smaps.lines().filter(|line| line.starts_with("Private_"));
    let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.sum::<f64>() / 1024.0
}

/// Time that all threads of `pids` have run, in nanoseconds: the first field of their schedstat
/// (Documentation/scheduler/sched-stats.rst).
pub fn run_ns(pids: &[u32]) -> u64 {
    let tasks = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Busy and total time of all processors since boot, in ticks (proc_stat(5)).
pub fn machine_ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.take(8).filter_map(|field| field.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().sum();
    (all - idle, all)
}

/// Share of all processors' time since then that was not idle, in percent.
pub fn busy_since((busy_before, all_before): (u64, u64)) -> f64 {
    let (busy, all) = machine_ticks();
    100.0 * (busy - busy_before) as f64 / (all - all_before).max(1) as f64
}

/// Facts without which the figures mean little, one a line.
pub fn machine() -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| -> String {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    vec![
        format!("kernel: {}", read("/proc/sys/kernel/osrelease").trim()),
        format!("processors: {processors} × {}", field(&read("/proc/cpuinfo"), "model name")),
        format!("memory: {}", field(&read("/proc/meminfo"), "MemTotal")),
        format!("load average at the start: {}", read("/proc/loadavg").trim()),
        format!("kernel.sched_autogroup_enabled: {}", read("/proc/sys/kernel/sched_autogroup_enabled").trim()),
        format!("pressure at the start: {}", read("/proc/pressure/cpu").lines().next().unwrap_or("unknown")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_parent() {
        let own = std::process::id();
        assert_eq!(supervisor_pids(own, Path::new("/none")), [own]);
        let (pss, anonymous) = pss_mib(&[own]);
        assert!(pss >= anonymous && anonymous > 0.0);
        assert!(run_ns(&[own]) > 0);
        assert_eq!(parent(own), Some(std::os::unix::process::parent_id()));
    }
}
