//! Each figure: what is done to the agents, and what is measured.

use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks, pss_mib, run_ns, supervisor_pids};
use crate::report::{Figure, Goal};
use crate::starts::now_ns;
use crate::status::Client;
use crate::supervisors::{Kind, RESTART_AT_ONCE, Running, Tools, start, start_hale};
use rustix::process::Signal;
use std::time::Duration;

/// A supervisor that has not brought an agent back after this long has given up.
pub const GAVE_UP: Duration = Duration::from_secs(15);
/// Longest time for all agents of a supervisor to come up.
const START_WITHIN: Duration = Duration::from_secs(120);
/// A rest in which supervisors finish what a start made them do.
const REST: Duration = Duration::from_secs(3);
/// The shortest rest between two rounds with the same service, in seconds.
pub const RESTS_FROM: f64 = 0.5;
/// Between two changes of a service's files: what changes thirty times within a minute is looked at less often.
pub const SELDOM: Duration = Duration::from_millis(2_200);
/// Over this time the processor time of an idle supervisor is summed.
const IDLE: Duration = Duration::from_secs(15);
/// Enough for a 95th percentile that is not the maximum.
pub const ROUNDS: usize = 40;

/// Measures one figure, or several that need the same preparation.
type Measure = fn(&Tools) -> Result<Vec<Figure>, String>;

/// All figures by name, in the order of the page.
pub const ALL: &[(&str, Measure)] = &[
    ("settled", settled),
    ("back-to-back", back_to_back),
    ("healthy", healthy),
    ("hang", hang),
    ("evidence", crate::evidence::evidence),
    ("replaced", crate::replaced::replaced),
    ("twenty", twenty),
    ("thousand", thousand),
    ("looks", crate::checks::looks),
    ("http", crate::checks::http),
    ("reload", crate::reload::reload),
    ("starved", crate::starved::starved),
    ("crowd", crate::crowd::crowd),
    ("hostile", crate::hostile::hostile),
    ("bad-release", crate::recovery::bad_release),
    ("crash-loop", crate::recovery::crash_loop),
    ("nix", crate::recovery::nix),
    ("file", crate::recovery::file),
    ("staged", crate::staged::staged),
    ("outside", crate::outside::outside),
];

/// Numbers from 0 to 1 that differ from round to round and are the same in each run (splitmix64).
pub struct Spread(u64);

impl Spread {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// An empty figure.
pub fn figure(title: &str, unit: &'static str, goal: Goal) -> Figure {
    Figure { title: title.to_owned(), unit, goal, rows: Vec::new(), busy: 0.0 }
}

/// Runs `work` and notes how busy the machine was.
pub fn watched(
    mut figure: Figure,
    work: impl FnOnce(&mut Figure) -> Result<(), String>,
) -> Result<Vec<Figure>, String> {
    let before = machine_ticks();
    work(&mut figure)?;
    figure.busy = busy_since(before);
    Ok(vec![figure])
}

/// Of a time in nanoseconds.
pub fn milliseconds(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

/// Waits until all agents are up; the time of the last one's first act.
pub fn wait_for_all(running: &mut Running, count: u32) -> Result<u64, String> {
    let indices: Vec<u32> = (0..count).collect();
    let name = running.kind.name();
    let latest = running.starts.all_after(&indices, running.spawned_ns, START_WITHIN)?;
    latest.ok_or_else(|| format!("{name} has not started {count} agents within {} s", START_WITHIN.as_secs()))
}

/// Kills the only agent; milliseconds from just before the signal to the new one's first act.
pub fn kill_once(running: &mut Running) -> Result<f64, String> {
    let killed = running.starts.signal(0, Signal::KILL)?;
    let back = running.starts.all_after(&[0], killed, GAVE_UP)?;
    back.map(|back| milliseconds(killed, back)).ok_or_else(|| "gave up".to_owned())
}

fn installed(tools: &Tools) -> impl Iterator<Item = Kind> {
    Kind::AT_ONCE.into_iter().filter(|kind| kind.is_installed(tools))
}

/// Runs `work` for one supervisor; what goes wrong with it stands in its row and does not keep the others from being
/// measured.
pub fn attempt(figure: &mut Figure, kind: Kind, work: impl FnOnce(&mut Figure) -> Result<(), String>) {
    if let Err(message) = work(figure) {
        figure.add(kind, Numbers::default(), "");
        figure.note(kind, &message);
    }
}

/// All supervisors run side by side with one agent each, which are killed in turns: they share what the machine does.
fn settled(tools: &Tools) -> Result<Vec<Figure>, String> {
    let title = "kill -9 to the new process's first act, settled (up for 2.2 s and up to 1 s more)";
    watched(figure(title, "ms", Goal::MedianTimesFloor(2.0)), |figure| {
        let mut all = Vec::new();
        for kind in installed(tools) {
            attempt(figure, kind, |_| {
                let mut running = start(kind, tools, "settled", 1)?;
                wait_for_all(&mut running, 1)?;
                all.push(running);
                Ok(())
            });
        }
        let mut spread = Spread::new(1);
        for round in 0..ROUNDS {
            std::thread::sleep(Duration::from_secs_f64(2.2 + spread.next()));
            // Another one is first in each round.
            let first = round % all.len().max(1);
            let (behind, ahead) = all.split_at_mut(first);
            for running in ahead.iter_mut().chain(behind) {
                attempt(figure, running.kind, |figure| {
                    figure.add(running.kind, Numbers(vec![kill_once(running)?]), "");
                    Ok(())
                });
                // The one before must not be at work still: writing its records, say.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        figure.rows.sort_by_key(|row| Kind::ALL.iter().position(|kind| *kind == row.kind));
        all.into_iter().try_for_each(Running::stop)
    })
}

/// Each kill comes as soon as the agent is back. The floor is measured before and after the others.
fn back_to_back(tools: &Tools) -> Result<Vec<Figure>, String> {
    let title = "kill -9 to the new process's first act, 100 kills back to back";
    let turns = [
        (Kind::Floor, 50, ""),
        (Kind::Hale, 100, ""),
        (Kind::Floor, 50, ""),
        (Kind::Runit, 5, WAITS),
        (Kind::S6, 5, WAITS),
    ];
    watched(figure(title, "ms", Goal::MedianTimesFloor(2.0)), |figure| {
        for (kind, kills, note) in turns.into_iter().filter(|(kind, ..)| kind.is_installed(tools)) {
            attempt(figure, kind, |figure| {
                let mut running = start(kind, tools, "back-to-back", 1)?;
                wait_for_all(&mut running, 1)?;
                std::thread::sleep(REST);
                for kill in 1..=kills {
                    let ms = kill_once(&mut running).map_err(|e| format!("{e} at kill {kill}"))?;
                    figure.add(kind, Numbers(vec![ms]), note);
                }
                running.stop()
            });
        }
        Ok(())
    })
}

const WAITS: &str = "waits for a second by design, so five kills tell all";

/// The demo service of the example, killed when it is healthy; when Hale says that it is healthy again.
fn healthy(tools: &Tools) -> Result<Vec<Figure>, String> {
    if !Kind::Hale.is_installed(tools) {
        return Ok(Vec::new());
    }
    let title = "kill -9 of the demo HTTP service to all its checks passing again";
    watched(figure(title, "ms", Goal::Median(40.0)), |figure| {
        let toml = |_: &std::path::Path| {
            format!(
                "[service.web]\ncommand = [{:?}, \"demo-service\", \"web\", \"--port\", \"{DEMO_PORT}\"]\n{RESTART_AT_ONCE}\n\
                 [[service.web.check]]\nkind = \"http\"\nurl = \"http://127.0.0.1:{DEMO_PORT}/health\"\n\
                 json = {{ \"/status\" = \"ok\" }}\nevery = \"500ms\"\ntimeout = \"400ms\"\n",
                tools.hale
            )
        };
        let (running, configuration) = start_hale(tools, "healthy", 0, toml)?;
        let client = Client::new(&tools.hale, &configuration);
        let mut spread = Spread::new(2);
        let mut last = client.healthy_after("web", None, START_WITHIN)?;
        for _ in 0..ROUNDS {
            std::thread::sleep(Duration::from_secs_f64(RESTS_FROM + spread.next()));
            let killed = crate::status::kill(last.pid)?;
            last = client.healthy_after("web", Some(killed), GAVE_UP)?;
            figure.add(Kind::Hale, Numbers(vec![last.since.duration_since(killed).as_secs_f64() * 1e3]), "");
        }
        running.stop()
    })
}

/// Of the demo service; not the example's, which may be running.
const DEMO_PORT: u16 = 18_701;
/// Of the agent that is made to hang.
const HANG_PORT: u16 = 18_711;

/// An agent that answers HTTP is stopped by SIGSTOP: it lives, the kernel accepts connections for it, none is answered.
fn hang(tools: &Tools) -> Result<Vec<Figure>, String> {
    if !Kind::Hale.is_installed(tools) {
        return Ok(Vec::new());
    }
    let title = "SIGSTOP to the new process's first act; check every 200 ms, timeout 100 ms, failures 3, grace 0";
    watched(figure(title, "ms", Goal::P95(900.0)), |figure| {
        let toml = |fifo: &std::path::Path| {
            format!(
                "[service.hang]\ncommand = [{:?}, {fifo:?}, \"0\", \"--http\", \"{HANG_PORT}\"]\nstop = {{ grace = \"0s\" }}\n\
                 {RESTART_AT_ONCE}\n[[service.hang.check]]\nkind = \"http\"\nurl = \"http://127.0.0.1:{HANG_PORT}/\"\n\
                 every = \"200ms\"\ntimeout = \"100ms\"\nfailures = 3\n",
                tools.agent
            )
        };
        let (mut running, configuration) = start_hale(tools, "hang", 1, toml)?;
        let client = Client::new(&tools.hale, &configuration);
        let mut spread = Spread::new(3);
        let mut since = None;
        wait_for_all(&mut running, 1)?;
        for _ in 0..ROUNDS {
            client.healthy_after("hang", since, GAVE_UP)?;
            std::thread::sleep(Duration::from_secs_f64(RESTS_FROM + spread.next()));
            since = Some(jiff::Timestamp::now());
            let stopped = running.starts.signal(0, Signal::STOP)?;
            let back = running.starts.all_after(&[0], stopped, GAVE_UP)?.ok_or("the hung agent was not replaced")?;
            figure.add(Kind::Hale, Numbers(vec![milliseconds(stopped, back)]), "");
        }
        running.stop()
    })
}

/// Memory and processor time of a supervisor that has nothing to do.
fn idle_cost(running: &Running, tools: &Tools) -> (f64, f64, f64, usize) {
    let pids = supervisor_pids(running.child.id(), &tools.agent);
    let (before, start) = (run_ns(&pids), now_ns());
    std::thread::sleep(IDLE);
    let ran = run_ns(&pids).saturating_sub(before);
    let share = 100.0 * ran as f64 / (now_ns() - start) as f64;
    let (pss, anonymous) = pss_mib(&pids);
    (pss, anonymous, share, pids.len())
}

fn add_idle_cost(pss: &mut Figure, cpu: &mut Figure, running: &Running, tools: &Tools) {
    let (mib, anonymous, share, processes) = idle_cost(running, tools);
    let note = format!("{processes} processes, {anonymous:.1} MiB of it anonymous");
    pss.add(running.kind, Numbers(vec![mib]), &note);
    cpu.add(running.kind, Numbers(vec![share]), "");
}

fn twenty(tools: &Tools) -> Result<Vec<Figure>, String> {
    let mut pss = figure("memory (PSS) with 20 services without checks", "MiB", Goal::Median(8.0));
    let mut cpu = figure("processor time with 20 services without checks, idle", "% of one", Goal::Median(0.1));
    let before = machine_ticks();
    for kind in installed(tools) {
        attempt(&mut pss, kind, |pss| {
            let mut running = start(kind, tools, "twenty", 20)?;
            wait_for_all(&mut running, 20)?;
            std::thread::sleep(REST);
            add_idle_cost(pss, &mut cpu, &running, tools);
            running.stop()
        });
    }
    pss.busy = busy_since(before);
    cpu.busy = pss.busy;
    Ok(vec![pss, cpu])
}

/// Number of agents of [`thousand`].
const MANY: u32 = 1_000;
/// How many of them are killed at once.
const KILLED: u32 = 100;

fn thousand(tools: &Tools) -> Result<Vec<Figure>, String> {
    let mut up = figure(
        "start of 1,000 services, from the supervisor's start to the last one's first act",
        "ms",
        Goal::MedianTimesFloor(2.0),
    );
    let mut back =
        figure("100 of 1,000 killed at once, to the last one's first act", "ms", Goal::MedianTimesFloor(2.0));
    let mut pss = figure("memory (PSS) with 1,000 services without checks", "MiB", Goal::Median(20.0));
    let mut cpu = figure("processor time with 1,000 services without checks, idle", "% of one", Goal::Median(0.1));
    let before = machine_ticks();
    for round in 0..3 {
        for kind in installed(tools) {
            attempt(&mut up, kind, |up| {
                let mut running = start(kind, tools, "thousand", MANY)?;
                let last = wait_for_all(&mut running, MANY)?;
                up.add(kind, Numbers(vec![milliseconds(running.spawned_ns, last)]), "");
                std::thread::sleep(REST);
                if round == 0 {
                    add_idle_cost(&mut pss, &mut cpu, &running, tools);
                }
                for first in [0, 300, 600] {
                    back.add(kind, Numbers(vec![kill_many(&mut running, first)?]), "");
                    std::thread::sleep(REST);
                }
                running.stop()
            });
            std::thread::sleep(REST);
        }
    }
    for figure in [&mut up, &mut back, &mut pss, &mut cpu] {
        figure.busy = busy_since(before);
    }
    Ok(vec![up, back, pss, cpu])
}

/// Kills [`KILLED`] agents from `first` on; milliseconds until all are back.
fn kill_many(running: &mut Running, first: u32) -> Result<f64, String> {
    let indices: Vec<u32> = (first..first + KILLED).collect();
    let since = now_ns();
    for index in &indices {
        running.starts.signal(*index, Signal::KILL)?;
    }
    let name = running.kind.name();
    let last = running.starts.all_after(&indices, since, START_WITHIN)?;
    Ok(milliseconds(since, last.ok_or_else(|| format!("{name} has not brought back all of {KILLED}"))?))
}
