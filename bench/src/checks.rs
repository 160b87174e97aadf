//! What checks cost with a thousand services and more, and how soon the API answers about them.

use crate::figures::figure;
use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks, run_ns, running_programs, supervisor_pids};
use crate::report::{Figure, Goal};
use crate::starts::now_ns;
use crate::supervisors::{Kind, RESTART_AT_ONCE, Running, Tools, start_hale};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many services.
const MANY: u32 = 1_000;
/// More, to see whether the cost grows with them or faster; a guardian has five descriptors for each, of 20,000 that many hosts allow.
const MORE: u32 = 3_000;
/// Longest time for all of them to come up.
pub const UP_WITHIN: Duration = Duration::from_secs(300);
/// A rest until every check is probed at its usual pace.
pub const SETTLED_AFTER: Duration = Duration::from_secs(15);
/// Over this time the processor time is summed: ten rounds of the checks.
const WATCHED: Duration = Duration::from_secs(20);
/// The first port of the agents; below those that the kernel gives to clients (ip(7), `ip_local_port_range`).
pub const FIRST_PORT: u32 = 20_000;
/// How long an agent may take to answer a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How many questions are asked.
const QUESTIONS: usize = 200;

/// A thousand services, each with a check of memory and one of descriptors.
pub fn looks(tools: &Tools) -> Result<Vec<Figure>, String> {
    let checks = "kind = \"memory\"\nbelow = \"1GiB\"\n[[service.aN.check]]\nkind = \"open_files\"\nbelow = 1000\n";
    let title = "processor time with 1,000 services, each with `memory` and `open_files` every 2 s";
    let mut cost = figure(title, "% of one", Goal::Median(8.0));
    let before = machine_ticks();
    let (running, _) = up(tools, "looks", MANY, checks, false)?;
    cost.add(Kind::Hale, Numbers(vec![cost_of(&running, tools)]), "");
    let agents = running_programs(&tools.agent);
    let look = |number: usize| {
        let pid = agents[number % agents.len()];
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| format!("pid {pid}: {e}"))?;
        text.find("RssAnon:").ok_or("a process has no memory")?;
        std::fs::metadata(format!("/proc/{pid}/fd")).map_err(|e| format!("pid {pid}: {e}")).map(drop)
    };
    if agents.is_empty() {
        return Err(String::from("no agent runs"));
    }
    cost.add(
        Kind::Floor,
        Numbers(vec![cost_of_plain(MANY, look)?]),
        "a loop that reads `status` and counts `fd` as often",
    );
    running.stop()?;
    cost.busy = busy_since(before);
    Ok(vec![cost])
}

/// Services with one HTTP check each, and the API beside them.
pub fn http(tools: &Tools) -> Result<Vec<Figure>, String> {
    let checks = "kind = \"http\"\nurl = \"http://127.0.0.1:PORT/\"\n";
    let title = |count| format!("processor time with {count} services, each with an HTTP check every 2 s");
    let mut cost = figure(&title("1,000"), "% of one", Goal::Median(8.0));
    let mut more = figure(&title("3,000"), "% of one", Goal::Median(24.0));
    let mut answer =
        figure("`/v1/status` of 1,000 services, from the connection to the last byte", "ms", Goal::Median(2.0));
    for (count, cost) in [(MANY, &mut cost), (MORE, &mut more)] {
        let before = machine_ticks();
        let (running, configuration) = up(tools, &format!("http-{count}"), count, checks, true)?;
        cost.add(Kind::Hale, Numbers(vec![cost_of(&running, tools)]), "");
        let probe = |number: usize| ask_agent(FIRST_PORT + u32::try_from(number).unwrap_or(0) % count);
        cost.add(Kind::Floor, Numbers(vec![cost_of_plain(count, probe)?]), "a loop of the same requests, as often");
        cost.busy = busy_since(before);
        if count == MANY {
            let socket = read_socket(&configuration)?;
            let times: Result<Vec<f64>, String> = (0..QUESTIONS).map(|_| ask(&socket)).collect();
            answer.add(Kind::Hale, Numbers(times?), "");
            answer.busy = cost.busy;
        }
        running.stop()?;
    }
    Ok(vec![cost, more, answer])
}

/// Makes the request of an HTTP check.
pub fn ask_agent(port: u32) -> Result<(), String> {
    let error = |e: std::io::Error| format!("port {port}: {e}");
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).map_err(error)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(error)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").map_err(error)?;
    let mut answer = [0; 1_024];
    let length = stream.read(&mut answer).map_err(error)?;
    if answer[..length].starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(format!("port {port} fails")) }
}

/// Starts so many services with these checks (`N` is a service's number, `PORT` its own), and waits until they are healthy.
pub fn up(tools: &Tools, name: &str, count: u32, checks: &str, serves: bool) -> Result<(Running, PathBuf), String> {
    let toml = |fifo: &Path| {
        let mut toml = String::new();
        for index in 0..count {
            let port = (FIRST_PORT + index).to_string();
            let serve = if serves { format!(", \"--http\", \"{port}\"") } else { String::new() };
            let checks = checks.replace("aN", &format!("a{index}")).replace("PORT", &port);
            // To a String it cannot fail.
            let _ = writeln!(
                toml,
                "[service.a{index}]\ncommand = [{:?}, {fifo:?}, \"{index}\"{serve}]\nstart.within = \"5m\"\n{RESTART_AT_ONCE}\
                 [[service.a{index}.check]]\n{checks}",
                tools.agent
            );
        }
        toml
    };
    let (mut running, configuration) = start_hale(tools, name, count, toml)?;
    let all: Vec<u32> = (0..count).collect();
    running.starts.all_after(&all, 0, UP_WITHIN)?.ok_or("not all services came up")?;
    std::thread::sleep(SETTLED_AFTER);
    let text = get(&read_socket(&configuration)?)?;
    let healthy = text.matches("\"state\":\"healthy\"").count();
    if healthy != count as usize {
        let _ = running.stop();
        return Err(format!("only {healthy} of {count} services are healthy"));
    }
    Ok((running, configuration))
}

/// Processor time of all of Hale, in percent of one.
fn cost_of(running: &Running, tools: &Tools) -> f64 {
    let pids = supervisor_pids(running.child.id(), &tools.agent);
    let (before, start) = (run_ns(&pids), now_ns());
    std::thread::sleep(WATCHED);
    100.0 * run_ns(&pids).saturating_sub(before) as f64 / (now_ns() - start) as f64
}

/// Processor time, in percent of one, of a thread that does nothing but `act` for each of `count` services every 2 s, in bunches.
fn cost_of_plain(count: u32, act: impl Fn(usize) -> Result<(), String> + Sync) -> Result<f64, String> {
    const BUNCHES_IN_2_S: u32 = 80;
    let bunch = (count / BUNCHES_IN_2_S).max(1) as usize;
    let pause = Duration::from_secs(2).mul_f64(bunch as f64 / f64::from(count));
    let own = || std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let run = |text: String| text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    let work = || {
        let (before, start, begun) = (run(own()), now_ns(), Instant::now());
        let mut number = 0;
        while begun.elapsed() < WATCHED {
            (number..number + bunch).try_for_each(&act)?;
            number += bunch;
            let next = pause * u32::try_from(number / bunch).unwrap_or(u32::MAX);
            std::thread::sleep(next.saturating_sub(begun.elapsed()));
        }
        Ok(100.0 * run(own()).saturating_sub(before) as f64 / (now_ns() - start) as f64)
    };
    std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| String::from("the plain loop panicked"))?
}

/// Where the Hale of this configuration answers.
pub fn read_socket(configuration: &Path) -> Result<PathBuf, String> {
    let text = std::fs::read_to_string(configuration).map_err(|e| format!("{}: {e}", configuration.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("runtime_dir = "));
    let dir = line.ok_or("the configuration has no runtime_dir")?.trim_matches('"');
    Ok(Path::new(dir).join("read.sock"))
}

pub fn get(socket: &Path) -> Result<String, String> {
    exchange(socket, "GET /v1/status")
}

/// Puts a question or gives an order; the answer, if it is a good one.
pub fn exchange(socket: &Path, what: &str) -> Result<String, String> {
    exchange_with(socket, what, "", &[])
}

/// The same with a body, and what stands about it in the head.
pub fn exchange_with(socket: &Path, what: &str, head: &str, body: &[u8]) -> Result<String, String> {
    let error = |e: std::io::Error| format!("{}: {e}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(error)?;
    let request = format!("{what} HTTP/1.1\r\nHost: hale\r\nConnection: close\r\n{head}\r\n");
    stream.write_all(request.as_bytes()).map_err(error)?;
    stream.write_all(body).map_err(error)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(error)?;
    if text.starts_with("HTTP/1.1 200 ") { Ok(text) } else { Err(format!("the API answers {text:.1000}")) }
}

/// Milliseconds of one question.
fn ask(socket: &Path) -> Result<f64, String> {
    let start = now_ns();
    get(socket)?;
    Ok((now_ns() - start) as f64 / 1e6)
}
