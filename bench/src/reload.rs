//! How long a reload of a thousand services takes that changes one of them.

use crate::checks::{exchange, get, read_socket, up};
use crate::figures::figure;
use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks};
use crate::report::{Figure, Goal};
use crate::starts::now_ns;
use crate::supervisors::{Kind, Tools};
use std::process::Command;

/// How many services.
const SERVICES: u32 = 1_000;
/// The one that changes.
const CHANGED: &str = "[service.a500]\n";
/// How often.
const RELOADS: usize = 40;

/// From the connection to the answer, and beside it `hale validate` of the same file, which reads and checks it, too.
pub fn reload(tools: &Tools) -> Result<Vec<Figure>, String> {
    let title = "reload of 1,000 services with one changed, from the connection to the answer";
    let mut took = figure(title, "ms", Goal::Median(50.0));
    let before = machine_ticks();
    let check = "kind = \"exec\"\ncommand = [\"true\"]\nevery = \"1h\"\n";
    let (running, configuration) = up(tools, "reload", SERVICES, check, false)?;
    let read = read_socket(&configuration)?;
    let control = read.with_file_name("control.sock");
    let error = |e: std::io::Error| format!("{}: {e}", configuration.display());
    let text = std::fs::read_to_string(&configuration).map_err(error)?;
    let (mut reloads, mut validations) = (Vec::new(), Vec::new());
    for number in 0..RELOADS {
        let other = format!("{CHANGED}environment = {{ RELOAD = \"{number}\" }}\n");
        std::fs::write(&configuration, text.replacen(CHANGED, &other, 1)).map_err(error)?;
        let start = now_ns();
        let answer = exchange(&control, "POST /v1/reload")?;
        reloads.push((now_ns() - start) as f64 / 1e6);
        if !answer.contains("in force: 1 to be started anew (a500)") {
            return Err(format!("the reload was answered by {answer}"));
        }
        let restarts = format!("\"restarts\":{}", number + 1);
        let until = now_ns() + 20_000_000_000;
        while !get(&read)?.contains(&restarts) {
            if now_ns() > until {
                return Err(String::from("the changed service was not started anew"));
            }
        }
        let start = now_ns();
        let status = Command::new(&tools.hale).arg("validate").env("HALE_CONFIG", &configuration).output();
        let status = status.map_err(|e| format!("{}: {e}", tools.hale.display()))?;
        validations.push((now_ns() - start) as f64 / 1e6);
        if !status.status.success() {
            return Err(String::from_utf8_lossy(&status.stderr).into_owned());
        }
    }
    let untouched = get(&read)?.matches("\"restarts\":0").count();
    if untouched != SERVICES as usize - 1 {
        return Err(format!("{untouched} services were left alone, and not all but one"));
    }
    running.stop()?;
    took.add(Kind::Floor, Numbers(validations), "`hale validate` of the same file, from fork to exit");
    took.add(Kind::Hale, Numbers(reloads), "");
    took.busy = busy_since(before);
    Ok(vec![took])
}
