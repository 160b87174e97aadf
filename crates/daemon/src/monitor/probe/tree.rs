//! Checks that look at the processes of a service: one look for all that are due together, on another thread, and what
//! its figures mean.

use super::{Deadline, ProbeOrder, Probed, Verdict};
use crate::execute::tree::Tree;
use crate::monitor::tree_sample::{Held, Memory, Needs, Past, Sample};
use hale_core::ids::{Epoch, Name};
use hale_core::memory::Size;
use hale_core::policy::{CheckKind, ListenAddress, MemoryBound};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// How many threads may look at once. A look takes some hundred microseconds; more threads that hang do so with the
/// kernel, and a hundred would tell no more.
const THREADS_MAX: u32 = 8;

/// How long a look waits for other checks of the service, and for other services: the loop orders all that are due together
/// within microseconds.
const GATHERED_WITHIN: Duration = Duration::from_millis(1);

/// How long a thread may take for all that wait until another one goes on with those that it has not begun with: what some
/// hundred services take together, and a tenth of the time that checks have by default.
const PATIENCE: Duration = Duration::from_millis(100);

/// Looks at services one after the other, at each by at most one thread.
pub(super) struct Looker {
    threads: Arc<Semaphore>,
    queue: Arc<Mutex<Queue>>,
}

type Answer = Result<Arc<Sample>, String>;

/// Who waits.
#[derive(Default)]
struct Queue {
    services: BTreeMap<Name, Watched>,
    /// Those at which nobody looks, the next one first.
    next: VecDeque<Name>,
    /// Answers that their checks were not told of yet.
    answers: Vec<(Asked, Answer)>,
    /// Somebody sees to it that all are looked at.
    is_led: bool,
}

/// One service.
#[derive(Default)]
struct Watched {
    /// What the next look must find out.
    waiting: Vec<Asked>,
    /// It is in the queue, or looked at.
    is_queued: bool,
    /// What is remembered, and of which process.
    past: Option<(Epoch, Past)>,
}

/// One check that waits.
struct Asked {
    epoch: Epoch,
    tree: Tree,
    index: usize,
    kind: CheckKind,
    answer: oneshot::Sender<Answer>,
}

impl Looker {
    pub(super) fn new() -> Self {
        Self { threads: Arc::new(Semaphore::new(THREADS_MAX as usize)), queue: Arc::default() }
    }

    /// Judges a check by the next look at the service.
    pub(super) async fn probe(
        &self,
        order: &ProbeOrder,
        kind: &CheckKind,
        deadline: Deadline,
    ) -> Result<Verdict, Verdict> {
        let tree = match &order.of {
            Probed::Service { tree, .. } => tree.clone(),
            Probed::Dependency(_) => None,
        };
        let tree = tree.ok_or_else(|| Verdict::unable("there are no processes to look at"))?;
        let (answer, sample) = oneshot::channel();
        let asked = Asked { epoch: order.epoch, tree, index: order.check, kind: kind.clone(), answer };
        if lock(&self.queue).add(&order.service, asked) {
            // Not this probe's own task, which is dropped when the next process begins.
            tokio::spawn(lead(self.queue.clone(), self.threads.clone()));
        }
        match deadline.bound_own("its processes to be looked at", sample).await? {
            Ok(Ok(sample)) => Ok(judge(kind, order.check, &sample)),
            Ok(Err(why)) => Err(Verdict::unable(why)),
            Err(_) => Err(Verdict::unable("the look at its processes was given up")),
        }
    }

    /// Forgets a service that is gone.
    pub(super) fn forget(&self, service: &Name) {
        // In the queue it is passed over; a look that is under way finds nobody to remember it.
        lock(&self.queue).services.remove(service);
    }
}

impl Queue {
    /// Adds a check of a service; whether somebody must lead now.
    fn add(&mut self, service: &Name, asked: Asked) -> bool {
        if !self.services.contains_key(service) {
            self.services.insert(service.clone(), Watched::default());
        }
        let Some(watched) = self.services.get_mut(service) else { return false };
        // While a look hangs others come and go.
        watched.waiting.retain(|other| !other.answer.is_closed());
        watched.waiting.push(asked);
        if std::mem::replace(&mut watched.is_queued, true) {
            return false;
        }
        self.next.push_back(service.clone());
        !std::mem::replace(&mut self.is_led, true)
    }

    /// The next service, those that wait for its newest process, and what is remembered of that.
    fn take(&mut self) -> Option<(Name, Vec<Asked>, Past)> {
        while let Some(service) = self.next.pop_front() {
            let Some(watched) = self.services.get_mut(&service) else { continue };
            let mut waiting = std::mem::take(&mut watched.waiting);
            let newest = waiting.iter().map(|asked| asked.epoch).max();
            // The others' answers nobody would take.
            waiting.retain(|asked| Some(asked.epoch) == newest && !asked.answer.is_closed());
            if waiting.is_empty() {
                watched.is_queued = false;
                continue;
            }
            let past = watched.past.take().filter(|(epoch, _)| Some(*epoch) == newest).map(|(_, past)| past);
            return Some((service, waiting, past.unwrap_or_default()));
        }
        None
    }

    /// Takes what a look has found; whoever came meanwhile waits for the next one.
    fn put(&mut self, service: Name, waiting: Vec<Asked>, past: Past, answer: &Answer) {
        let epoch = waiting.last().map(|asked| asked.epoch);
        self.answers.extend(waiting.into_iter().map(|asked| (asked, answer.clone())));
        let Some(watched) = self.services.get_mut(&service) else { return };
        watched.past = epoch.map(|epoch| (epoch, past));
        watched.is_queued = !watched.waiting.is_empty();
        if watched.is_queued {
            self.next.push_back(service);
        }
    }
}

/// Has all that wait looked at, for as long as there are any.
async fn lead(queue: Arc<Mutex<Queue>>, threads: Arc<Semaphore>) {
    loop {
        tokio::time::sleep(GATHERED_WITHIN).await;
        // Nobody closes it.
        let Ok(thread) = threads.clone().acquire_owned().await else { return };
        let (own, all) = (queue.clone(), queue.clone());
        let mut looks = tokio::task::spawn_blocking(move || {
            look_at_all(&own);
            drop(thread);
        });
        if tokio::time::timeout(PATIENCE, &mut looks).await.is_err() {
            // One of them hangs, or there are very many: the thread goes on, and its answers are not waited for.
            tokio::spawn(async move {
                let _ = looks.await;
                tell(&all);
            });
        }
        tell(&queue);
        let mut queue = lock(&queue);
        if queue.next.is_empty() {
            queue.is_led = false;
            return;
        }
    }
}

/// Looks at one service after the other until none waits.
fn look_at_all(queue: &Mutex<Queue>) {
    loop {
        let Some((service, waiting, mut past)) = lock(queue).take() else { return };
        let mut needs = Needs::default();
        waiting.iter().for_each(|asked| needs.add(asked.index, &asked.kind));
        let Some(tree) = waiting.last().map(|asked| asked.tree.clone()) else { continue };
        // Who panics must not take the service, and all that wait behind it, along.
        let (past, answer) = match catch_unwind(AssertUnwindSafe(|| past.look(&tree, &needs))) {
            Ok(Ok(sample)) => (past, Ok(Arc::new(sample))),
            Ok(Err(error)) => (past, Err(format!("its processes cannot be looked at: {error}"))),
            Err(_) => (Past::default(), Err(String::from("its processes cannot be looked at: an error in Hale"))),
        };
        lock(queue).put(service, waiting, past, &answer);
    }
}

/// Tells the checks what was found. On the thread of the runtime, which need not be woken for each of them.
fn tell(queue: &Mutex<Queue>) {
    let answers = std::mem::take(&mut lock(queue).answers);
    for (asked, answer) in answers {
        // Whoever waited too long is gone.
        let _ = asked.answer.send(answer);
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a check finds in the figures.
fn judge(kind: &CheckKind, index: usize, sample: &Sample) -> Verdict {
    if sample.processes == Some(0) {
        return Verdict::unable("none of its processes lives");
    }
    match kind {
        CheckKind::Memory { below } => sample.memory.as_ref().map(|found| {
            let verdict = memory(*below, found);
            // What may be too much would look like growth where it changes to what it really is.
            if found.is_exact { verdict.of(found.total()) } else { verdict }
        }),
        CheckKind::Cpu { below_percent, window } => sample.cpu.get(&index).map(|mean| {
            let (percent, over) = (mean.percent(), hale_core::time::Span::from_us(mean.over_us));
            match mean.is_whole {
                true if percent >= u64::from(*below_percent) => {
                    Verdict::wrong(format_args!("{percent} % of a core over {over}, not below {below_percent} %"))
                }
                true => Verdict::pass(format_args!("{percent} % of a core over {over}")),
                false => Verdict::pass(format_args!("{percent} % of a core over {over}, {window} decide")),
            }
        }),
        CheckKind::OpenFiles { below } => sample.open_files.map(|most| {
            let hidden = if most.unreadable > 0 {
                format!("; {} of its processes may not be asked", most.unreadable)
            } else {
                String::new()
            };
            let (count, pid) = (most.count, most.pid);
            let verdict = if count >= u64::from(*below) {
                Verdict::wrong(format_args!("{count} open files in pid {pid}, not below {below}{hidden}"))
            } else if pid == 0 && most.unreadable > 0 {
                Verdict::unable("its processes may not be asked for their open files")
            } else {
                Verdict::pass(format_args!("{count} open files in pid {pid}{hidden}"))
            };
            if most.unreadable == 0 { verdict.of(count) } else { verdict }
        }),
        CheckKind::Listen { address } => sample.listen.get(address).map(|held| listen(address, *held)),
        CheckKind::Http(_)
        | CheckKind::Tcp { .. }
        | CheckKind::Exec { .. }
        | CheckKind::Heartbeat { .. }
        | CheckKind::Grpc { .. }
        | CheckKind::Metric(_)
        | CheckKind::Progress(_)
        | CheckKind::LoopLag(_) => None,
    }
    .unwrap_or_else(|| Verdict::unable("nothing was found out about it"))
}

fn memory(below: MemoryBound, found: &Memory) -> Verdict {
    let total = found.total();
    let at_most = if found.is_exact { "" } else { "at most " };
    let figure = match below {
        MemoryBound::OfLimit { limit_bytes, .. } => {
            let percent = (u128::from(total) * 100).checked_div(u128::from(limit_bytes)).unwrap_or(0);
            format!("{at_most}{} of {} ({percent} %)", Size(total), Size(limit_bytes))
        }
        MemoryBound::Bytes(_) => format!("{at_most}{}", Size(total)),
    };
    if total < below.bytes() {
        return Verdict::pass(figure);
    }
    if !found.is_exact {
        return Verdict::unable(format_args!(
            "{figure}: the kernel does not tell how much of it several processes share"
        ));
    }
    let bound = match below {
        MemoryBound::OfLimit { percent, .. } => format!("{percent} %"),
        MemoryBound::Bytes(bytes) => Size(bytes).to_string(),
    };
    let Memory { anonymous, shared, swapped, .. } = *found;
    let parts = format!("{} anonymous, {} shared, {} swapped", Size(anonymous), Size(shared), Size(swapped));
    Verdict::wrong(format_args!("{figure}, not below {bound}: {parts}"))
}

fn listen(address: &ListenAddress, held: Held) -> Verdict {
    match held {
        Held::By(pid) => Verdict::pass(format_args!("pid {pid} listens")),
        Held::ByNobody => Verdict::wrong(format_args!("nobody listens at {address}")),
        Held::ByOthers { unreadable: 0 } => {
            Verdict::wrong(format_args!("none of its processes listens at {address}, another one does"))
        }
        Held::ByOthers { unreadable } => Verdict::unable(format_args!(
            "{unreadable} of its processes may not be asked whether they listen at {address}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::probe::testing::{LONG, assert_fails, assert_passes, policy, trees};
    use crate::monitor::tree_sample::{Mean, OpenFiles};
    use hale_core::event::{ProbeFailure, ProbeOutcome};
    use hale_core::ids::ProbeId;
    use hale_core::time::Span;

    const SHORT: Span = Span::from_ms(100);

    fn order(tree: Option<Tree>, epoch: u64, check: usize) -> ProbeOrder {
        let policy = Arc::new(policy(CheckKind::OpenFiles { below: 1 }, LONG));
        let service = Name::try_from("bot").unwrap();
        let of = Probed::Service { policy, root: None, tree, anew: false };
        ProbeOrder { service, epoch: Epoch(epoch), probe: ProbeId(1), check, of }
    }

    async fn probe(looker: &Looker, order: &ProbeOrder, timeout: Span) -> ProbeOutcome {
        let kind = CheckKind::Cpu { below_percent: 1, window: LONG };
        let verdict = looker.probe(order, &kind, Deadline::start(timeout)).await.unwrap_or_else(|verdict| verdict);
        ProbeOutcome {
            took_us: 0,
            failure: verdict.failure,
            detail: verdict.detail,
            figure: verdict.figure,
            late_us: 0,
        }
    }

    fn looks(looker: &Looker) -> (u64, u32) {
        let queue = looker.queue.lock().unwrap();
        let (epoch, past) = queue.services.values().next().unwrap().past.as_ref().unwrap();
        (epoch.0, past.looks)
    }

    #[tokio::test]
    async fn checks_that_are_due_together_take_one_look() {
        let (trees, looker) = (trees(), Looker::new());
        let tree = trees.prepare(&Name::try_from("bot").unwrap()).unwrap();
        let order = |epoch, check| order(Some(tree.clone()), epoch, check);
        let (one, two, three) = (order(1, 0), order(1, 1), order(1, 2));
        let all = tokio::join!(probe(&looker, &one, LONG), probe(&looker, &two, LONG), probe(&looker, &three, LONG));
        for outcome in [all.0, all.1, all.2] {
            assert_passes(&outcome, "0 % of a core over ");
        }
        assert_eq!(looks(&looker), (1, 1));
        assert_passes(&probe(&looker, &one, LONG).await, "0 % of a core over ");
        assert_eq!(looks(&looker), (1, 2));
        // Of the next process nothing is remembered.
        assert_passes(&probe(&looker, &order(2, 0), LONG).await, "0 % of a core over 0 ms, 30 s decide");
        assert_eq!(looks(&looker), (2, 1));
        trees.close().unwrap();
    }

    #[tokio::test]
    async fn a_look_that_does_not_come_back_says_nothing_and_piles_nothing_up() {
        let (trees, looker) = (trees(), Looker::new());
        let order = order(Some(trees.prepare(&Name::try_from("bot").unwrap()).unwrap()), 1, 0);
        let all = looker.threads.clone().acquire_many_owned(THREADS_MAX).await.unwrap();
        for _ in 0..5 {
            let outcome = probe(&looker, &order, SHORT).await;
            assert_fails(&outcome, ProbeFailure::Unable, "not run within 100 ms: waiting for its processes");
        }
        assert_eq!(looker.queue.lock().unwrap().services.values().next().unwrap().waiting.len(), 1);
        drop(all);
        assert_passes(&probe(&looker, &order, LONG).await, "0 % of a core");
        trees.close().unwrap();
    }

    #[tokio::test]
    async fn a_service_whose_look_hangs_keeps_none_of_the_others_waiting() {
        let (trees, looker) = (trees(), Looker::new());
        let order = |name: &str| {
            let service = Name::try_from(name).unwrap();
            let tree = trees.prepare(&service).unwrap();
            ProbeOrder { service, ..order(Some(tree), 1, 0) }
        };
        let (open, gate) = std::sync::mpsc::channel();
        let mut past = Past::default();
        past.gate = Some(gate);
        let hanging = order("hanging");
        let watched = Watched { past: Some((Epoch(1), past)), ..Watched::default() };
        looker.queue.lock().unwrap().services.insert(hanging.service.clone(), watched);
        let others = ["bot", "api", "worker"].map(order);
        let all = async {
            for other in &others {
                assert_passes(&probe(&looker, other, LONG).await, "0 % of a core");
            }
            drop(open);
        };
        let (hung, ()) = tokio::join!(probe(&looker, &hanging, LONG), all);
        assert_passes(&hung, "0 % of a core");
        trees.close().unwrap();
    }

    #[tokio::test]
    async fn without_processes_there_is_nothing_to_judge() {
        let outcome = probe(&Looker::new(), &order(None, 1, 0), LONG).await;
        assert_fails(&outcome, ProbeFailure::Unable, "there are no processes to look at");
        let gone = Sample { processes: Some(0), open_files: Some(OpenFiles::default()), ..Sample::default() };
        let verdict = judge(&CheckKind::OpenFiles { below: 1 }, 0, &gone);
        assert_eq!(verdict, Verdict::unable("none of its processes lives"));
    }

    #[test]
    fn figures_are_judged_in_words() {
        const MIB: u64 = 1 << 20;
        let found = Memory { anonymous: 300 * MIB, shared: 100 * MIB, swapped: 12 * MIB, is_exact: true };
        let of_limit = |percent| MemoryBound::OfLimit { percent, limit_bytes: 512 * MIB };
        assert_eq!(memory(of_limit(81), &found), Verdict::pass("412 MiB of 512 MiB (80 %)"));
        let parts = "300 MiB anonymous, 100 MiB shared, 12 MiB swapped";
        let failed = format!("412 MiB of 512 MiB (80 %), not below 80 %: {parts}");
        assert_eq!(memory(of_limit(80), &found), Verdict::wrong(failed));
        let rough = Memory { is_exact: false, ..found };
        let judged = memory(MemoryBound::Bytes(412 * MIB), &rough);
        assert_eq!(judged.failure, Some(ProbeFailure::Unable), "an upper bound is no proof: {judged:?}");
        assert_eq!(memory(MemoryBound::Bytes(412 * MIB + 1), &rough), Verdict::pass("at most 412 MiB"));

        let cpu = |used_us, is_whole| {
            let mean = Mean { used_us, over_us: 60_000_000, is_whole };
            let sample = Sample { cpu: BTreeMap::from([(4, mean)]), ..Sample::default() };
            judge(&CheckKind::Cpu { below_percent: 150, window: Span::from_secs(60) }, 4, &sample)
        };
        assert_eq!(cpu(89_999_999, true), Verdict::pass("149 % of a core over 1 min"));
        assert_eq!(cpu(90_000_000, true), Verdict::wrong("150 % of a core over 1 min, not below 150 %"));
        assert_eq!(cpu(90_000_000, false), Verdict::pass("150 % of a core over 1 min, 1 min decide"));

        let files = |count, pid, unreadable| {
            let open_files = Some(OpenFiles { count, pid, unreadable });
            judge(&CheckKind::OpenFiles { below: 900 }, 0, &Sample { open_files, ..Sample::default() })
        };
        assert_eq!(files(899, 7, 0), Verdict::pass("899 open files in pid 7").of(899));
        assert_eq!(files(900, 7, 0), Verdict::wrong("900 open files in pid 7, not below 900").of(900));
        assert_eq!(files(3, 7, 2), Verdict::pass("3 open files in pid 7; 2 of its processes may not be asked"));
        assert_eq!(files(0, 0, 2), Verdict::unable("its processes may not be asked for their open files"));

        let address = ListenAddress::Unix("/run/bot".into());
        assert_eq!(listen(&address, Held::By(7)), Verdict::pass("pid 7 listens"));
        assert_eq!(listen(&address, Held::ByNobody), Verdict::wrong("nobody listens at unix:/run/bot"));
        let others = "none of its processes listens at unix:/run/bot, another one does";
        assert_eq!(listen(&address, Held::ByOthers { unreadable: 0 }), Verdict::wrong(others));
        let hidden = listen(&address, Held::ByOthers { unreadable: 2 });
        assert_eq!(hidden.failure, Some(ProbeFailure::Unable), "what cannot be seen is no failure");
    }
}
