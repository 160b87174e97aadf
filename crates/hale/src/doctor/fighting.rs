//! Others that manage what Hale manages: a unit of systemd with the same program, another supervisor, another Hale, who
//! holds an address or the timer.

use super::{Finding, Severity, read};
use hale_core::policy::{CheckKind, ListenAddress, Policy};
use hale_daemon::execute::program;
use hale_daemon::monitor::watchdog_chain::{Chain, chain};
use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// How long systemctl may take: it answers in a tenth of a second, or hangs with systemd.
const SYSTEMCTL_WITHIN: Duration = Duration::from_secs(3);

/// The most that is read of its answer: some 4,000 units.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Programs that start, restart or kill what others run, by the name the kernel has for them (15 bytes).
const OTHERS: [(&str, &str); 9] = [
    ("supervisord", "restarts its programs by rules of its own"),
    ("monit", "restarts what it monitors by rules of its own"),
    ("runsvdir", "restarts its services by rules of its own"),
    ("s6-svscan", "restarts its services by rules of its own"),
    ("circusd", "restarts its programs by rules of its own"),
    ("PM2", "restarts its programs by rules of its own"),
    ("watchdogd", "pets the hardware timer, and may reset the machine"),
    ("earlyoom", "kills processes before memory runs out: to Hale a SIGKILL from nobody"),
    ("systemd-oomd", "kills cgroups under memory pressure: to Hale a SIGKILL from nobody"),
];

/// One process of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    name: String,
    words: Vec<String>,
}

/// Who else is there.
pub fn look(policy: &Policy, guardian: Option<i32>) -> Vec<Finding> {
    let processes = processes();
    let mut found = of_processes(policy, &processes, guardian);
    match listening() {
        // Whose socket it is, a running Hale's check `listen` tells.
        Ok(addresses) if guardian.is_none() => found.extend(of_addresses(policy, &addresses)),
        Ok(_) => {}
        Err(error) => found.push(Finding::unseen("fighting", "/proc/net/tcp", &error.to_string())),
    }
    if policy.host.hardware_watchdog.is_some()
        && let Chain::Other { .. } | Chain::Systemd { .. } | Chain::Unseen = chain(guardian)
    {
        found.push(Finding::new(
            "fighting",
            Severity::Fault,
            &format!("[host.hardware_watchdog] is set, and {}", chain(guardian)),
            "the guardian cannot open the timer: it does not reset the machine for Hale",
            "take the timer from the other (systemd: RuntimeWatchdogSec=0), or take [host.hardware_watchdog] out",
        ));
    }
    if std::path::Path::new("/run/systemd/system").exists() {
        match units() {
            Ok(text) => found.extend(of_units(policy, &text)),
            Err(error) => found.push(Finding::unseen("fighting", "systemd's units", &format!("systemctl: {error}"))),
        }
    }
    found
}

fn processes() -> Vec<Process> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn process(pid: i32) -> Option<Process> {
    let stat = read(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name may hold anything, also a bracket.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
    let line = read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split_terminator('\0').map(str::to_owned).collect();
    Some(Process { pid, parent, name: name.to_owned(), words })
}

/// Whether the guardian is above it.
fn is_below(processes: &[Process], pid: i32, guardian: i32) -> bool {
    let parent = |pid: i32| processes.iter().find(|process| process.pid == pid).map(|process| process.parent);
    std::iter::successors(Some(pid), |&pid| parent(pid)).take(64).any(|pid| pid == guardian)
}

fn commands(policy: &Policy) -> Vec<(String, Vec<String>)> {
    let of_one = |(name, service): (&hale_core::ids::Name, &std::sync::Arc<hale_core::policy::ServicePolicy>)| {
        let path = program::resolve(service.command.first()?, service.directory.as_deref()?).ok()?;
        let words = std::iter::once(path.to_string_lossy().into_owned()).chain(service.command.iter().skip(1).cloned());
        Some((name.to_string(), words.collect()))
    };
    policy.services.iter().filter_map(of_one).collect()
}

/// The last part of a path.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn of_processes(policy: &Policy, processes: &[Process], guardian: Option<i32>) -> Vec<Finding> {
    let mut found = Vec::new();
    // Looked for in PATH once, not for each process.
    let commands: Vec<_> = commands(policy).into_iter().collect();
    for Process { pid, name, words, .. } in processes {
        if guardian.is_some_and(|guardian| is_below(processes, *pid, guardian)) {
            continue;
        }
        // A thread of the kernel (there is one named watchdogd), or a zombie.
        if words.is_empty() {
            continue;
        }
        // PM2 names its daemon "PM2 v5.3.0: God".
        if let Some((_, what)) =
            OTHERS.iter().find(|(other, _)| name == other || name.starts_with(&format!("{other} ")))
        {
            let severity = if name.contains("oom") { Severity::Note } else { Severity::Risk };
            let cost = format!("it {what}; where both have the same program, they undo each other's work");
            let mend = "let one of them have it: take its program out there, or out of Hale's configuration";
            found.push(Finding::new("fighting", severity, &format!("{name} runs, pid {pid}"), &cost, mend));
        }
        let hale = words.first().is_some_and(|word| base(word) == "hale")
            && matches!(words.get(1).map(String::as_str), Some("run" | "guardian"));
        if hale {
            let cost = "two Hales with the same services start each of them twice";
            let mend = "look at its configuration (`hale status -c FILE`), and stop it if it has the same services";
            found.push(Finding::new("fighting", Severity::Note, &format!("another Hale runs, pid {pid}"), cost, mend));
        }
        for (service, command) in &commands {
            let same = words.len() == command.len()
                && words.iter().skip(1).eq(command.iter().skip(1))
                && words.first().zip(command.first()).is_some_and(|(one, other)| base(one) == base(other));
            if same {
                found.push(Finding::new(
                    "fighting",
                    Severity::Risk,
                    &format!("the command of service {service} runs outside of Hale, pid {pid}: {}", words.join(" ")),
                    "two of it fight for addresses, files and locks; the second one may fail for ever, and Hale holds it",
                    "end it, and whatever starts it, or take the service out of Hale's configuration",
                ));
            }
        }
    }
    found
}

/// Addresses that somebody listens at, of this network namespace.
fn listening() -> io::Result<BTreeSet<SocketAddr>> {
    let four = read("/proc/net/tcp")?;
    // Without IPv6 there is no such file.
    let six = read("/proc/net/tcp6").unwrap_or_default();
    Ok(four.lines().chain(six.lines()).filter_map(listener).collect())
}

/// One line of proc_pid_net_tcp(5): `sl local remote state ...`; state 0A listens, addresses are words of the host's order.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    if words.nth(1)? != "0A" {
        return None;
    }
    let word = |text: &str| u32::from_str_radix(text, 16).map(u32::to_ne_bytes).ok();
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(address)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(address.get(at * 8..at * 8 + 8)?)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn of_addresses(policy: &Policy, taken: &BTreeSet<SocketAddr>) -> Vec<Finding> {
    // A listener at the unspecified address has all of its port, on this machine.
    let is_here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let is_taken = |wanted: &SocketAddr| {
        taken.iter().any(|other| {
            other.port() == wanted.port()
                && (other.ip() == wanted.ip()
                    || other.ip().is_unspecified() && is_here(wanted.ip())
                    || wanted.ip().is_unspecified())
        })
    };
    let mut found = Vec::new();
    for (name, service) in &policy.services {
        let held = service.listen.values().filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        });
        let probed = service.checks.iter().filter_map(|check| match &check.kind {
            CheckKind::Tcp { address } => address.parse().ok(),
            CheckKind::Http(http) => {
                http.url.split_once("://").and_then(|(_, rest)| rest.split('/').next()?.parse().ok())
            }
            _ => None,
        });
        for address in held.chain(probed).collect::<BTreeSet<SocketAddr>>().iter().filter(|address| is_taken(address)) {
            found.push(Finding::new(
                "fighting",
                Severity::Fault,
                &format!("service {name}: somebody listens at {address}, and no Hale runs here"),
                "the service cannot bind it, or its check is answered by another program and passes whatever the service does",
                &format!("find it with `ss -ltnp 'sport = :{}'`, and end it and what starts it", address.port()),
            ));
        }
    }
    found
}

/// What systemd says of all its services.
fn units() -> io::Result<String> {
    let properties = "--property=Id,ActiveState,UnitFileState,ExecStart";
    ask(Command::new("systemctl").args(["show", "*.service", "--all", "--no-pager", properties]), SYSTEMCTL_WITHIN)
}

/// The output of a program that may hang.
fn ask(command: &mut Command, within: Duration) -> io::Result<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (tell, told) = channel();
    if let Some(out) = child.stdout.take() {
        thread::Builder::new().spawn(move || {
            let mut bytes = Vec::new();
            let read = out.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
            // Nobody is left to hear it if it comes too late.
            let _ = tell.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()));
        })?;
    }
    let answer = told.recv_timeout(within);
    // Whether it hangs, or lives on with its output closed: it is not needed any more.
    let ended = child.try_wait()?;
    child.kill()?;
    let status = ended.unwrap_or(child.wait()?);
    match answer {
        Err(_) => Err(io::Error::other(format!("no answer within {} s", within.as_secs_f32()))),
        Ok(Ok(text)) if text.is_empty() && !status.success() => Err(io::Error::other(status.to_string())),
        Ok(answer) => answer,
    }
}

/// `ExecStart={ path=/usr/bin/x ; argv[]=/usr/bin/x --port 1 ; ignore_errors=no ; ... }`, blocks with an empty line between.
fn of_units(policy: &Policy, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let commands = commands(policy);
    for block in text.split("\n\n") {
        let value =
            |key: &str| block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
        let (id, active, enabled) = (value("Id"), value("ActiveState"), value("UnitFileState"));
        let acts = matches!(active, "active" | "activating" | "reloading") || enabled.starts_with("enabled");
        let Some(line) = value("ExecStart").split("argv[]=").nth(1).and_then(|rest| rest.split(" ; ").next()) else {
            continue;
        };
        for (service, command) in commands.iter().filter(|_| acts) {
            if line.trim() == command.join(" ") {
                found.push(Finding::new(
                    "fighting",
                    Severity::Risk,
                    &format!("unit {id} ({active}, {enabled}) runs the command of service {service}: {line}"),
                    "systemd starts it too, at boot or whenever it ends: two of it fight for addresses, files and locks",
                    &format!("systemctl disable --now {id}, or take the service out of Hale's configuration"),
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::policy;
    use super::*;
    use std::net::TcpListener;

    fn what(found: &[Finding]) -> Vec<&str> {
        found.iter().map(|finding| finding.what.as_str()).collect()
    }

    fn process(pid: i32, parent: i32, name: &str, words: &[&str]) -> Process {
        Process { pid, parent, name: name.into(), words: words.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn who_runs_the_same_command_outside_of_hale_is_told() {
        let policy = policy("[service.bot]\ncommand = [\"/usr/bin/bot\", \"--port\", \"1\"]\n");
        let all = [
            process(1, 0, "systemd", &["/sbin/init"]),
            process(7, 1, "hale", &["hale", "run"]),
            process(8, 7, "bot", &["/usr/bin/bot", "--port", "1"]),
            process(9, 1, "bot", &["bot", "--port", "1"]),
            process(10, 1, "bot", &["bot", "--port", "2"]),
            process(11, 1, "earlyoom", &["earlyoom"]),
            process(12, 2, "watchdogd", &[]),
        ];
        let outside = "the command of service bot runs outside of Hale, pid 9: bot --port 1";
        assert_eq!(what(&of_processes(&policy, &all, Some(7))), [outside, "earlyoom runs, pid 11"]);
        assert_eq!(what(&of_processes(&policy, &all, None)).len(), 4);
    }

    #[test]
    fn a_unit_that_is_active_or_enabled_with_the_same_words_is_told() {
        let policy = policy("[service.bot]\ncommand = [\"/usr/bin/bot\", \"--port\", \"1\"]\n");
        let unit = |id, active, enabled, words| {
            format!(
                "Id={id}\nActiveState={active}\nUnitFileState={enabled}\n\
                 ExecStart={{ path=/usr/bin/bot ; argv[]={words} ; ignore_errors=no ; start_time=[n/a] }}\n"
            )
        };
        let words = "/usr/bin/bot --port 1";
        let text = [
            unit("a.service", "inactive", "disabled", words),
            unit("b.service", "inactive", "enabled", words),
            unit("c.service", "active", "static", words),
            unit("d.service", "active", "enabled", "/usr/bin/bot --port 2"),
        ];
        let found = of_units(&policy, &text.join("\n"));
        assert!(found.len() == 2 && found[0].what.starts_with("unit b.service (inactive, enabled) runs"), "{found:?}");
    }

    #[test]
    fn an_address_that_is_taken_is_seen_in_the_kernels_list() {
        let (four, six) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0"));
        let taken = listening().unwrap();
        let address = four.local_addr().unwrap();
        assert!(taken.contains(&address), "{taken:?}");
        // Not every host has IPv6.
        assert!(
            six.is_ok_and(|six| taken.contains(&six.local_addr().unwrap()))
                || !std::fs::exists("/proc/net/if_inet6").unwrap()
        );
        let text = format!("[service.a]\ncommand = [\"x\"]\nlisten = {{ http = \"{address}\" }}\n");
        let found = of_addresses(&policy(&text), &taken);
        assert_eq!(what(&found), [format!("service a: somebody listens at {address}, and no Hale runs here")]);
        assert_eq!(of_addresses(&policy(&text), &BTreeSet::new()), []);
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let error = ask(Command::new("sleep").arg("1000"), Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("no answer within 0.02 s"), "{error}");
        assert_eq!(ask(Command::new("echo").arg("x"), SYSTEMCTL_WITHIN).unwrap(), "x\n");
        assert!(ask(&mut Command::new("false"), SYSTEMCTL_WITHIN).unwrap_err().to_string().contains("exit status: 1"));
    }
}
