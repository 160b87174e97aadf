//! How soon Hale's loop answers while a hostile service does its worst.

use crate::checks::{FIRST_PORT, exchange, read_socket};
use crate::crowd::say_nothing;
use crate::figures::{attempt, figure, milliseconds, wait_for_all};
use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks};
use crate::report::{Figure, Goal};
use crate::starts::now_ns;
use crate::supervisors::{Kind, RESTART_AT_ONCE, Tools, start_hale};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How many questions are asked beside each, and as many without it.
const QUESTIONS: u32 = 2_000;
/// Between two of them: all last twenty seconds, in which each check is made as often.
const PAUSE: Duration = Duration::from_millis(10);
/// Until what was just started, or stopped, is as it will be. A connection that says nothing is closed after two seconds.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// It is asked about, and does nothing.
const QUIET: &str = "[service.quiet]\ncommand = [AGENT, FIFO, \"0\"]\n";

/// What a service does.
struct Worst {
    name: &'static str,
    title: &'static str,
    /// How many do it.
    count: u32,
    /// The words of one of them, and its check, if it has one. `INDEX` is its number, from 1 on; `PORT` its own.
    command: &'static str,
    check: &'static str,
    /// What the state of each of them then has in it.
    proof: &'static str,
    /// Whether clients say nothing meanwhile, on the socket for readers.
    mute: bool,
}

const ALL: [Worst; 5] = [
    Worst {
        name: "output",
        title: "two services print as fast as they can",
        count: 2,
        command: "[\"yes\"]",
        check: "",
        proof: "\"state\":\"healthy\"",
        mute: false,
    },
    Worst {
        name: "notify",
        title: "two services talk on their notify sockets as fast as they can",
        count: 2,
        command: "[AGENT, FIFO, \"INDEX\", \"--notify\"]",
        check: "kind = \"heartbeat\"\nwithin = \"2s\"\n",
        proof: "\"status_text\":\"flood ",
        mute: false,
    },
    Worst {
        name: "body",
        title: "five services answer HTTP checks every second without end",
        count: 5,
        command: "[AGENT, FIFO, \"INDEX\", \"--http\", \"PORT\", \"--endless\"]",
        check: "kind = \"http\"\nurl = \"http://127.0.0.1:PORT/\"\nbody_contains = \"ok\"\n",
        proof: "the body is longer",
        mute: false,
    },
    Worst {
        name: "exec",
        title: "five exec checks every second print until they are killed",
        count: 5,
        command: "[AGENT, FIFO, \"INDEX\"]",
        check: "kind = \"exec\"\ncommand = [\"yes\"]\ntimeout = \"900ms\"\n",
        proof: "killed: it did not end",
        mute: false,
    },
    Worst {
        name: "mute",
        title: "2,000 connections that say nothing come and go",
        count: 0,
        command: "",
        check: "",
        proof: "",
        mute: true,
    },
];

impl Worst {
    /// The table of one of them.
    fn toml(&self, index: u32) -> String {
        let service = format!("[service.worst{index}]\ncommand = {}\n{RESTART_AT_ONCE}", self.command);
        let check = if self.check.is_empty() {
            String::new()
        } else {
            // What fails is only told of: what restarts do is another figure.
            format!(
                "start.ready = \"running\"\n[[service.worst{index}.check]]\nevery = \"1s\"\nfailures = 10000\n{}",
                self.check
            )
        };
        let text = format!("{service}{check}").replace("INDEX", &index.to_string());
        text.replace("PORT", &(FIRST_PORT + index).to_string())
    }
}

/// One figure for each: a status of one service, on a connection of its own, because each has one request.
pub fn hostile(tools: &Tools) -> Result<Vec<Figure>, String> {
    ALL.iter().map(|worst| beside(tools, worst)).collect()
}

fn beside(tools: &Tools, worst: &Worst) -> Result<Figure, String> {
    let title = format!("`/v1/status/quiet`, from the connection to the last byte, while {}", worst.title);
    let mut took = figure(&title, "ms", Goal::P99(50.0));
    let before = machine_ticks();
    attempt(&mut took, Kind::Hale, |took| measure(tools, worst, took));
    took.busy = busy_since(before);
    Ok(took)
}

fn measure(tools: &Tools, worst: &Worst, took: &mut Figure) -> Result<(), String> {
    let toml = |fifo: &Path| {
        let worst = (1..=worst.count).map(|index| worst.toml(index)).collect::<String>();
        let toml = format!("{QUIET}{RESTART_AT_ONCE}{worst}");
        toml.replace("AGENT", &format!("{:?}", tools.agent)).replace("FIFO", &format!("{fifo:?}"))
    };
    let (mut running, configuration) = start_hale(tools, &format!("hostile-{}", worst.name), 1 + worst.count, toml)?;
    wait_for_all(&mut running, 1)?;
    std::thread::sleep(SETTLED_AFTER);
    let read = read_socket(&configuration)?;
    // Asked by the same code, and by the same way to the loop; clients of the other socket cannot take its places.
    let control = read.with_file_name("control.sock");
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let asked = std::thread::scope(|scope| {
        if worst.mute {
            scope.spawn(|| say_nothing(&read, &over, &made));
            std::thread::sleep(SETTLED_AFTER);
        }
        let asked = ask(&control);
        over.store(true, Ordering::Relaxed);
        asked
    });
    took.add(Kind::Hale, asked?, "");
    let status = exchange(&control, "GET /v1/status")?;
    let services = status.split("{\"name\":\"worst").skip(1);
    let proven = services.filter(|service| service.contains(worst.proof) && service.contains("\"restarts\":0,"));
    if proven.count() != worst.count as usize {
        return Err(format!("not all did what they should: {status}"));
    }
    if worst.mute {
        took.note(Kind::Hale, &format!("{} mute connections were made", made.load(Ordering::Relaxed)));
    }
    for index in 1..=worst.count {
        exchange(&control, &format!("POST /v1/services/worst{index}/stop"))?;
    }
    std::thread::sleep(SETTLED_AFTER);
    took.add(Kind::Floor, ask(&control)?, "the same Hale without that");
    let quiet = exchange(&control, "GET /v1/status/quiet")?;
    if !quiet.contains("\"state\":\"healthy\"") || !quiet.contains("\"restarts\":0,") {
        return Err(format!("the quiet service did not stay as it was: {quiet}"));
    }
    running.stop()
}

/// Asks, again and again. Questions that could not be asked meanwhile, as the one before was not answered, would have waited for
/// the rest of its time: they count as well, or a loop that stands for a second would be one number among 2,000.
fn ask(socket: &Path) -> Result<Numbers, String> {
    let mut times = Vec::new();
    let pause = PAUSE.as_secs_f64() * 1e3;
    for _ in 0..QUESTIONS {
        std::thread::sleep(PAUSE);
        let start = now_ns();
        exchange(socket, "GET /v1/status/quiet")?;
        let mut left = milliseconds(start, now_ns());
        times.push(left);
        while left > pause {
            left -= pause;
            times.push(left);
        }
    }
    Ok(Numbers(times))
}
