//! `cargo xtask vm`: Hale in emulated machines, whose power can be cut and whose hardware timer can reset them.
//!
//! A scenario is one file in `scenarios/`, which begins with the guarantee that it tests, and one line in [`SCENARIOS`]. It gets a [`Bench`] and
//!
//! 1. says what machine it needs: [`Machine`] `{ modules, qemu_arguments, kernel_arguments, files, .. }`, for
//!    example with a hardware timer of 10 s:
//!    `Machine { modules: vec!["i6300esb heartbeat=10"], qemu_arguments: HARDWARE_TIMER.to_vec(),
//!    files: vec![configuration()], ..Machine::default() }`;
//! 2. boots it with `bench.boot_new(&machine)` (new disk) or `bench.boot(&machine)` (the disk as it is);
//! 3. runs commands with `guest.must("hale status")` (must exit with 0) or `guest.run(..)`; those that never answer,
//!    such as `echo c >/proc/sysrq-trigger`, with `guest.send(..)`;
//! 4. waits: `guest.await_reset(within)` for a reset *and* the boot after it, on the same disk, telling whether the
//!    hardware timer caused it; `guest.await_console("text", within)` for a line; `guest.stays_up(time)` for no reset;
//! 5. cuts the power with `guest.cut_power()` and boots again.
//!
//! With `/etc/hale/hale.toml` among its files a guest starts `hale run` at each boot, by init, with its output on the
//! console; a `/etc/guest/start` of its own replaces that. Every wait has a deadline; an error shows the end of the
//! console, and `target/vm/SCENARIO` keeps all of it, the disk and the initramfs.

mod agent;
mod debian;
mod guest;
mod image;
mod machine;
mod scenarios;

use crate::report::{LeftOut, Tally};
use crate::tools::{Outcome, find_program, target_dir};
use crate::{dist, host};
use machine::Bench;
#[cfg(doc)]
use machine::Machine;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// What tests one guarantee: nothing, or what was not as it should be.
type Scenario = fn(&Bench) -> Outcome;

/// Each scenario with its name.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("boot", scenarios::boot::run),
    ("clock-step", scenarios::clock_step::run),
    ("watchdog-reset", scenarios::watchdog_reset::run),
    ("hardware-timer", scenarios::hardware_timer::run),
    ("wedged", scenarios::wedged::run),
    ("memory", scenarios::memory::run),
    ("pid1", scenarios::pid1::run),
    ("power-cut", scenarios::power_cut::run),
    ("power-cut-deploy", scenarios::power_cut_deploy::run),
    ("systemd", scenarios::systemd::run),
    ("systemd-newer", scenarios::systemd::run_on_newer),
];

/// Machines at once. One that is emulated keeps one processor busy, and two are what a small machine has.
const AT_ONCE: usize = 2;

/// Those on a Debian of their own, which takes more than the others to make.
const ON_DEBIAN: &[&str] = &["systemd", "systemd-newer"];

/// What has to be there, and which Debian package brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("mke2fs", "e2fsprogs"),
    ("musl-gcc", "musl-tools"),
    ("setpriv", "util-linux"),
    ("chrt", "util-linux"),
    ("ldd", "libc-bin"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("rustup", "rustup"),
];

/// `cargo xtask vm [SCENARIO...] [--full]`: all scenarios if none is named. `HALE_VM_SEED` repeats a run.
pub fn run(root: &Path, words: &[&str]) -> Outcome {
    let full = words.contains(&"--full");
    let names: Vec<&str> = words.iter().copied().filter(|word| *word != "--full").collect();
    if let Some(unknown) = names.iter().find(|name| !SCENARIOS.iter().any(|(known, _)| known == *name)) {
        let known: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        return Err(format!("no scenario {unknown:?}; there are: {}", known.join(", ")));
    }
    host::install_packages()?;
    if let Some(why) = missing() {
        return Err(format!("cannot run machines here: {why}"));
    }
    if let (true, Some(why)) = (names.iter().any(|name| ON_DEBIAN.contains(name)), debian::missing()) {
        return Err(format!("cannot make a Debian here: {why}"));
    }
    let (tally, outcome) = scenarios(root, &names, full)?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    outcome
}

/// All scenarios with their small counts, for `cargo xtask test`.
pub fn run_all(root: &Path) -> Outcome<(Tally, Outcome)> {
    scenarios(root, &[], false)
}

/// How many scenarios cannot be run, and why.
pub fn left_out(why: String) -> LeftOut {
    LeftOut { what: "scenarios in emulated machines".to_owned(), count: SCENARIOS.len() as u64, why }
}

/// The scenarios on a Debian of their own, where only that cannot be made.
pub fn left_out_on_debian() -> Option<LeftOut> {
    let why = debian::missing()?;
    Some(LeftOut { what: ON_DEBIAN.join(", "), count: ON_DEBIAN.len() as u64, why })
}

/// What this machine lacks.
pub fn missing() -> Option<String> {
    if let Some((program, package)) = PROGRAMS.iter().find(|(program, _)| find_program(program).is_none()) {
        return Some(format!("no {program} (Debian: {package})"));
    }
    dist::add_target().err().map(|_| format!("rustup has no target {}", dist::TARGET))
}

fn scenarios(root: &Path, names: &[&str], full: bool) -> Outcome<(Tally, Outcome)> {
    let cache = target_dir(root)?.join("vm");
    let hale = dist::build(root)?;
    std::fs::create_dir_all(&cache).map_err(|e| format!("cannot make {}: {e}", cache.display()))?;
    let kernel = image::kernel(&cache)?;
    let seed = seed()?;
    println!("HALE_VM_SEED={seed}");
    let without_debian = debian::missing().is_some();
    let chosen = |name: &str| {
        if names.is_empty() { !(without_debian && ON_DEBIAN.contains(&name)) } else { names.contains(&name) }
    };
    let waiting: Mutex<Vec<&(&str, Scenario)>> =
        Mutex::new(SCENARIOS.iter().filter(|(name, _)| chosen(name)).rev().collect());
    let ended = Mutex::new((Tally::default(), Vec::new()));
    let worker = || {
        while let Some((name, scenario)) = lock(&waiting).pop() {
            let folder = cache.join(name);
            let bench = Bench { cache: cache.clone(), kernel: kernel.clone(), hale: hale.clone(), folder, full, seed };
            let start = Instant::now();
            let outcome = image::fresh_folder(&bench.folder).and_then(|()| scenario(&bench));
            let took = start.elapsed().as_secs_f64();
            let (tally, failures) = &mut *lock(&ended);
            match outcome {
                Ok(()) => {
                    println!("{name}: ok, {took:.1} s");
                    tally.passed += 1;
                }
                Err(message) => {
                    println!("{name}: FAILED, {took:.1} s");
                    failures.push(format!("{name}: {message}"));
                    tally.failed += 1;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(worker);
        }
    });
    let (tally, failures) = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((tally, if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }))
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From `HALE_VM_SEED`, else from the clock: other moments in each run find more than the same ones, and the printed
/// number repeats them.
fn seed() -> Outcome<u64> {
    let seed = match std::env::var("HALE_VM_SEED") {
        Ok(text) => text.parse().map_err(|e| format!("HALE_VM_SEED={text}: {e}"))?,
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| u64::from(since.subsec_nanos())),
    };
    // Xorshift stays at 0 for ever.
    Ok(std::cmp::max(seed, 1))
}
