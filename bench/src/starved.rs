//! Whether a machine that has far too much to do makes supervisors restart services that are well.

use crate::checkers;
use crate::checks::{FIRST_PORT, ask_agent, up};
use crate::figures::{attempt, figure};
use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks};
use crate::report::{Figure, Goal};
use crate::starts::now_ns;
use crate::supervisors::{Kind, Running, Tools};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How many services.
const SERVICES: u32 = 50;
/// How many threads do nothing but turn.
const LOOPS: usize = 16;
/// For how long, each supervisor.
const WATCHED: Duration = Duration::from_secs(600);
/// Another time, in seconds, to try it out.
const WATCHED_VARIABLE: &str = "HALE_BENCH_STARVED_S";

/// Restarts beside busy loops, with checks as they are by default: each is a false one.
pub fn starved(tools: &Tools) -> Result<Vec<Figure>, String> {
    let watched = match std::env::var(WATCHED_VARIABLE) {
        Ok(text) => Duration::from_secs(text.parse().map_err(|e| format!("{WATCHED_VARIABLE}={text}: {e}"))?),
        Err(_) => WATCHED,
    };
    let title = format!(
        "restarts of {SERVICES} services that are well, HTTP check each, in {} s with {LOOPS} busy loops",
        watched.as_secs()
    );
    let mut restarts = figure(&title, "restarts", Goal::Median(0.0));
    let before = machine_ticks();
    for kind in Kind::CHECKING.into_iter().filter(|kind| kind.is_installed(tools)) {
        attempt(&mut restarts, kind, |restarts| {
            let mut running = if kind == Kind::Hale {
                up(tools, "starved", SERVICES, "kind = \"http\"\nurl = \"http://127.0.0.1:PORT/\"\n", true)?.0
            } else {
                checkers::up(kind, tools, "starved", SERVICES)?
            };
            let count = starts_beside_loops(&mut running, watched)?;
            let answering = (FIRST_PORT..FIRST_PORT + SERVICES).filter(|port| ask_agent(*port).is_ok()).count();
            restarts.add(kind, Numbers(vec![f64::from(count)]), &checkers::note(kind));
            restarts.note(kind, &format!("{answering} answer at the end"));
            running.stop()
        });
    }
    restarts.busy = busy_since(before);
    Ok(vec![restarts])
}

/// How many agents were started, by themselves, while the loops turned.
fn starts_beside_loops(running: &mut Running, watched: Duration) -> Result<u32, String> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..LOOPS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let until = now_ns() + u64::try_from(watched.as_nanos()).unwrap_or(u64::MAX);
        let mut count = 0;
        let ended = loop {
            match running.starts.next(until) {
                Ok(Some(_)) => count += 1,
                Ok(None) => break Ok(count),
                Err(message) => break Err(message),
            }
        };
        over.store(true, Ordering::Relaxed);
        ended
    })
}
