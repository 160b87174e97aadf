//! Calls that Hale makes, asked of the kernel by making them: version numbers lie about containers and their filters.

use super::{Finding, Severity, read};
use hale_daemon::sys::datagram;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// What the kernel refuses, beside what [`hale_daemon::monitor::features`] tells.
pub fn look() -> Vec<Finding> {
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).map(drop).map_err(|error| error.to_string());
    let direct = openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let senders = socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .map_err(|error| error.to_string())
        .and_then(|socket| datagram::tells_pidfds(&socket).map_err(|error| error.to_string()));
    judge(pidfd, direct.map(drop).map_err(|error| error.to_string()), senders, read("/proc/self/smaps_rollup"))
}

fn judge(
    pidfd: Result<(), String>,
    direct: Result<(), String>,
    senders: Result<(), String>,
    rollup: std::io::Result<String>,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tell = |severity, what: &str, cost, mend| found.push(Finding::new("kernel", severity, what, cost, mend));
    const FILTER: &str = "Linux 5.14 or later; in a container, a seccomp filter that allows it";
    if let Err(why) = pidfd {
        tell(Severity::Fault, &format!("pidfd_open(2): {why}"), "Hale cannot tell when a service ends", FILTER);
    }
    if let Err(why) = direct {
        let cost = "services with environment_files of another user, or with a Unix socket in listen, do not start";
        tell(Severity::Fault, &format!("openat2(2): {why}"), cost, FILTER);
    }
    if let Err(why) = senders {
        let cost = "who sent something to a notify socket is known by a pid that may be another's by then";
        tell(Severity::Risk, &format!("SO_PASSPIDFD of unix(7): {why}"), cost, "Linux 6.5 or later");
    }
    match rollup {
        Ok(text) if text.contains("Pss_Anon:") => {}
        Ok(_) => {
            let cost = "memory that several processes of a service share is counted more than once";
            tell(Severity::Risk, "no Pss_Anon in /proc/self/smaps_rollup", cost, "Linux 5.4 or later");
        }
        Err(error) => {
            let cost = "memory that several processes of a service share is counted more than once";
            let mend = "a kernel with CONFIG_PROC_PAGE_MONITOR, and /proc in place";
            tell(Severity::Risk, &format!("/proc/self/smaps_rollup: {error}"), cost, mend);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_told_by_its_own_words() {
        let no = || Err(String::from("Function not implemented"));
        let text = String::from("Pss_Anon: 12 kB\n");
        assert!(judge(Ok(()), Ok(()), Ok(()), Ok(text)).is_empty());
        let all = judge(no(), no(), no(), Ok(String::from("Pss: 1 kB\n")));
        let told: Vec<_> = all.iter().map(|finding| (finding.severity, finding.what.as_str())).collect();
        assert_eq!(
            told,
            [
                (Severity::Fault, "pidfd_open(2): Function not implemented"),
                (Severity::Fault, "openat2(2): Function not implemented"),
                (Severity::Risk, "SO_PASSPIDFD of unix(7): Function not implemented"),
                (Severity::Risk, "no Pss_Anon in /proc/self/smaps_rollup"),
            ]
        );
    }
}
