//! Whether a machine that has far too much to do makes Hale restart services that are well.

use crate::checks::{get, read_socket, up};
use crate::figures::figure;
use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks};
use crate::report::{Figure, Goal};
use crate::supervisors::{Kind, Tools};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How many services.
const SERVICES: u32 = 50;
/// How many threads do nothing but turn.
const LOOPS: usize = 16;
/// For how long.
const WATCHED: Duration = Duration::from_secs(600);

/// Restarts beside busy loops, with checks as they are by default: each is a false one.
pub fn starved(tools: &Tools) -> Result<Vec<Figure>, String> {
    let minutes = WATCHED.as_secs() / 60;
    let title = format!(
        "restarts of {SERVICES} services that are well, HTTP check each, in {minutes} min with {LOOPS} busy loops"
    );
    let mut restarts = figure(&title, "restarts", Goal::Median(0.0));
    let before = machine_ticks();
    let checks = "kind = \"http\"\nurl = \"http://127.0.0.1:PORT/\"\n";
    let (running, configuration) = up(tools, "starved", SERVICES, checks, true)?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..LOOPS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        std::thread::sleep(WATCHED);
        over.store(true, Ordering::Relaxed);
    });
    let status = get(&read_socket(&configuration)?)?;
    let counts: Vec<f64> =
        status.split("\"restarts\":").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok()).collect();
    let healthy = status.matches("\"state\":\"healthy\"").count();
    if counts.len() != SERVICES as usize {
        return Err(format!("the status tells the restarts of {} services, not of {SERVICES}", counts.len()));
    }
    restarts.add(Kind::Hale, Numbers(vec![counts.iter().sum()]), &format!("{healthy} healthy at the end"));
    restarts.busy = busy_since(before);
    running.stop()?;
    Ok(vec![restarts])
}
