//! Measures Hale, a plain spawn-and-wait loop and the peers that are installed in the same run: `cargo xtask bench`.
//!
//! The time of a restart is the agent's own: it looks at the clock as the first act of its `main`, and the driver did
//! just before kill(2), so how often the driver looks does not enter.

mod checkers;
mod checks;
mod crowd;
mod evidence;
mod figures;
mod floor;
mod hostile;
mod ledger;
mod nix;
mod numbers;
mod outside;
mod proc;
mod recovery;
mod reload;
mod replaced;
mod report;
mod staged;
mod starts;
mod starved;
mod status;
mod supervisors;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use supervisors::{Kind, Tools};

/// So long the driver looks at what else the machine does.
const LOOK: Duration = Duration::from_secs(3);
/// More than this share of the processors, in percent, taken by others: with a tick of 4 ms, a restart that has to wait
/// for one of them takes several times as long.
const BUSY_MAX: f64 = 10.0;

const USAGE: &str = "usage: hale-bench HALE AGENT FOLDER [FIGURE...]";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let texts: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let result = match texts.as_slice() {
        ["floor", count, agent, fifo] => match count.parse() {
            Ok(count) => floor::run(count, agent.as_ref(), fifo.as_ref()),
            Err(e) => Err(format!("{count}: {e}")),
        },
        [hale, agent, folder, wanted @ ..] => measure(hale, agent, folder.as_ref(), wanted),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn measure(hale: &str, agent: &str, folder: &Path, wanted: &[&str]) -> Result<(), String> {
    let absolute = |path: &str| std::fs::canonicalize(path).map_err(|e| format!("{path}: {e}"));
    if let Some(unknown) = wanted.iter().find(|name| !figures::ALL.iter().any(|(known, _)| known == *name)) {
        let known: Vec<&str> = figures::ALL.iter().map(|(name, _)| *name).collect();
        return Err(format!("no figure is called {unknown}; there are {}", known.join(", ")));
    }
    let memory = PathBuf::from(format!("/dev/shm/hale-bench-{}", std::process::id()));
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let disk = std::fs::canonicalize(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let tools = Tools {
        hale: std::path::absolute(hale).map_err(|e| format!("{hale}: {e}"))?,
        agent: absolute(agent)?,
        supervisord: checkers::supervisord(),
        disk,
        memory,
    };

    for fact in proc::machine() {
        println!("- {fact}");
    }
    let before = proc::machine_ticks();
    std::thread::sleep(LOOK);
    let busy = proc::busy_since(before);
    println!("- processors busy before the first figure: {} %", numbers::shown(Some(busy)));
    if busy > BUSY_MAX {
        println!("- **Other work disturbed this run: times of a few milliseconds mean little.**");
    }
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_installed(&tools)) {
        println!("- {} is not installed", kind.name());
    }
    let mut failures = Vec::new();
    for (name, run) in figures::ALL.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        match run(&tools) {
            Ok(figures) => figures.iter().for_each(|figure| println!("\n{}", figure.markdown())),
            Err(message) => failures.push(format!("{name}: {message}")),
        }
    }
    if tools.memory.exists() {
        std::fs::remove_dir_all(&tools.memory).map_err(|e| format!("{}: {e}", tools.memory.display()))?;
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}
