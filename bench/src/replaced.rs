//! How long nobody is in control when Hale's own supervisor dies or hangs, and what the guardian's memory is.

use crate::figures::{RESTS_FROM, ROUNDS, Spread, figure, milliseconds, wait_for_all, watched};
use crate::ledger::Ledger;
use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks, private_mib};
use crate::report::{Figure, Goal};
use crate::starts::now_ns;
use crate::supervisors::{Kind, RESTART_AT_ONCE, Running, Tools, start_hale};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// As many services as the goals name.
const SERVICES: u32 = 50;

/// Hangs take seconds each.
const HANGS: usize = 10;

/// The supervisor is killed, or stopped, at moments spread over its round of proofs; it counts from just before the signal to
/// the first step of the next one, as the ledger has it.
pub fn replaced(tools: &Tools) -> Result<Vec<Figure>, String> {
    if !Kind::Hale.is_installed(tools) {
        return Ok(Vec::new());
    }
    let toml = |fifo: &Path| {
        (0..SERVICES).fold(String::new(), |mut toml, index| {
            let words = [tools.agent.to_string_lossy(), fifo.to_string_lossy(), index.to_string().into()];
            let _ = writeln!(toml, "[service.a{index}]\ncommand = {words:?}\n{RESTART_AT_ONCE}");
            toml
        })
    };
    let (mut running, configuration) = start_hale(tools, "replaced", SERVICES, toml)?;
    wait_for_all(&mut running, SERVICES)?;
    let ledger = Ledger { hale: &tools.hale, configuration: &configuration };
    let mut spread = Spread::new(4);
    let mut seen = 0;
    let mut all = Vec::new();
    let titles = [
        (
            "kill -9 of the supervisor to the next one in control, 50 services",
            Signal::KILL,
            ROUNDS,
            Goal::Median(100.0),
        ),
        ("SIGSTOP of the supervisor to the next one in control, 50 services", Signal::STOP, HANGS, Goal::P95(2500.0)),
    ];
    for (title, signal, rounds, goal) in titles {
        all.extend(watched(figure(title, "ms", goal), |figure| {
            for _ in 0..rounds {
                std::thread::sleep(Duration::from_secs_f64(RESTS_FROM + spread.next()));
                let lost = now_ns();
                kill_process(supervisor(&running)?, signal)
                    .map_err(|e| format!("cannot signal the supervisor: {e}"))?;
                let in_control_us = ledger.next(&mut seen, |record| record.is("took_over"), "another supervisor")?;
                figure.add(Kind::Hale, Numbers(vec![milliseconds(lost, in_control_us * 1_000)]), "");
            }
            Ok(())
        })?);
    }
    let mut memory = figure("private memory of the guardian, 50 services", "MiB", Goal::Median(1.0));
    let before = machine_ticks();
    memory.add(Kind::Hale, Numbers(vec![private_mib(running.child.id())]), "");
    memory.busy = busy_since(before);
    all.push(memory);
    running.stop()?;
    Ok(all)
}

/// The guardian's child that supervises.
pub fn supervisor(running: &Running) -> Result<Pid, String> {
    let guardian = running.child.id();
    let children = std::fs::read_to_string(format!("/proc/{guardian}/task/{guardian}/children")).unwrap_or_default();
    let is_it = |pid: &&str| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|&byte| byte == 0).nth(1) == Some(b"supervisor")
    };
    let found = children.split_whitespace().find(is_it).and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    found.ok_or_else(|| "Hale has no supervisor".to_owned())
}
