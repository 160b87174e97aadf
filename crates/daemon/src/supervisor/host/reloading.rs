//! Reloading: the other policy is kept for the next supervisor, and what it changes for the host is done.

use super::DaemonHost;
use crate::api::groups;
use crate::api::sockets::READ_GROUP;
use crate::knowledge::policy_file::{self, InForce};
use crate::protocol::{Slot, StoreKey};
use crate::supervisor::inbox::{NOBODY, is_by_signal};
use crate::supervisor::service::Hosted;
use hale_core::effect::Answer;
use hale_core::event::{Event, Question, Reading};
use hale_core::ids::{Name, RecordId, RequestId};
use hale_core::policy::{Policy, PolicyHash};
use hale_core::reason::Reason;
use hale_core::record::{Body, Record};
use hale_core::time::{Monotonic, Span};
use hale_core::world::World;
use rustix::event::epoll;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::thread::JoinHandle;

/// How many reloads may wait for the one under way: more is a script gone wild.
const WAITING_MAX: usize = 16;

/// How long records that only the journal has keep it from beginning with another policy: a ledger that works has them in
/// milliseconds, and one that does not has the reload's own neither.
const SETTLE_WITHIN: Span = Span::from_secs(1);

/// What is kept of policies beside the journal.
#[derive(Debug)]
pub(in crate::supervisor) struct KeptPolicies {
    /// What the journal begins with.
    pub(in crate::supervisor) first: InForce,
    /// What was read since.
    pub(in crate::supervisor) next: Option<InForce>,
}

/// What the host has to remember of reloads.
#[derive(Debug)]
pub(in crate::supervisor) struct Reloads {
    guardian: String,
    runtime_dir: PathBuf,
    hash: PolicyHash,
    /// Of what is kept beside the one in force.
    next_hash: Option<PolicyHash>,
    /// The guardian's place of each service that there ever was.
    slots: BTreeMap<Name, u32>,
    /// The one that the core was told of, and has not answered.
    asked: Option<RequestId>,
    /// The journal begins with the policy before still: since this record, and since when.
    unsettled: Option<(RecordId, Monotonic)>,
    /// Those that were read meanwhile, in their order.
    waiting: VecDeque<Event>,
    sharing: Option<JoinHandle<()>>,
}

impl Reloads {
    /// What the loop begins with, `world`, is of this guardian. `kept`: what is kept of policies, with the places of all names.
    /// What an earlier supervisor has put to the core, and that has not answered, is answered to nobody.
    pub(in crate::supervisor) fn new(kept: KeptPolicies, runtime_dir: PathBuf, world: &World) -> Self {
        let KeptPolicies { first, next } = kept;
        let hash = world.policy_hash().clone();
        let next_hash = next.as_ref().map(|next| next.hash.clone());
        // It has the places of all that the first one has.
        let InForce { guardian, slots, .. } = next.unwrap_or(first);
        // Whatever was read back is older than anything that comes.
        let unsettled = (next_hash.as_ref() == Some(&hash)).then_some((RecordId(0), Monotonic::default()));
        let asked = world.awaits_reload().then_some(NOBODY);
        Self {
            guardian,
            runtime_dir,
            hash,
            next_hash,
            slots,
            asked,
            unsettled,
            waiting: VecDeque::new(),
            sharing: None,
        }
    }

    pub(super) fn slot(&self, name: &Name) -> Option<Slot> {
        self.slots.get(name).copied().map(Slot)
    }

    /// Whether the journal should begin with the policy in force now. Records that only the journal has keep it from that for
    /// a while: on a busy host there are always some, and those of the last milliseconds are no reason to refuse what comes.
    pub(super) fn wants_snapshot(&self, durable: RecordId, is_elsewhere: bool, now: Monotonic) -> bool {
        let is_old = |(record, since): (RecordId, Monotonic)| durable >= record && since.after(SETTLE_WITHIN) <= now;
        self.unsettled.is_some_and(|unsettled| is_elsewhere || is_old(unsettled))
    }

    /// Takes note of a reload that is on record now.
    pub(super) fn written(&mut self, records: &[Record]) {
        for record in records {
            if let Body::Reloaded(reload) = &record.body {
                self.hash = reload.to.clone();
                self.unsettled = Some((record.id, record.at.mono));
            }
        }
    }

    /// Whether another one has to be over first.
    fn must_wait(&self, reading: &Reading) -> bool {
        let is_other = matches!(reading, Reading::Valid { hash, .. } if *hash != self.hash);
        self.asked.is_some() || self.unsettled.is_some() && is_other
    }

    /// Keeps what was read before the core hears of it, so that a supervisor that dies behind its record has a successor
    /// that can go on; or says why not.
    fn keep(&mut self, request: RequestId, reading: Reading, is_journal_broken: bool) -> Reading {
        let Reading::Valid { policy, hash } = reading else { return reading };
        if hash == self.hash {
            return Reading::Valid { policy, hash };
        }
        if is_journal_broken {
            let error = String::from("the runtime journal cannot be written at the moment");
            return Reading::Refused { why: Reason::PolicyNotKept { error } };
        }
        let next = match InForce::new(&self.guardian, hash, *policy, self.slots.clone()) {
            Ok(next) => next,
            Err(error) => {
                return Reading::Refused { why: Reason::InvalidConfiguration { error: error.to_string() } };
            }
        };
        if let Err(error) = policy_file::write_next(&self.runtime_dir, &next) {
            let error = format!("{}: {error}", self.runtime_dir.join(policy_file::NEXT).display());
            return Reading::Refused { why: Reason::PolicyNotKept { error } };
        }
        self.asked = Some(request);
        self.next_hash = Some(next.hash.clone());
        self.slots = next.slots;
        Reading::Valid { policy: Box::new(next.policy), hash: next.hash }
    }
}

impl DaemonHost {
    /// An event from another thread, as the core is to hear it; `None`: it hears it later, when what is under way is over.
    pub(super) fn told(&mut self, event: Event) -> Option<Event> {
        let Event::Asked { request, question: Question::Reload { actor, reading } } = event else { return Some(event) };
        let waits = !self.reloads.waiting.is_empty() || self.reloads.must_wait(&reading);
        if waits && self.reloads.waiting.len() < WAITING_MAX {
            let event = Event::Asked { request, question: Question::Reload { actor, reading } };
            self.reloads.waiting.push_back(event);
            return None;
        }
        let reading = match waits {
            true => Reading::Refused { why: Reason::ReloadInProgress },
            false => self.reloads.keep(request, reading, self.parts.journal.is_broken()),
        };
        Some(Event::Asked { request, question: Question::Reload { actor, reading } })
    }

    /// Goes on with those that waited, as far as there is nothing under way.
    fn go_on_reloading(&mut self) {
        while let Some(Event::Asked { request, question: Question::Reload { actor, reading } }) =
            self.reloads.waiting.pop_front()
        {
            if self.reloads.must_wait(&reading) {
                let event = Event::Asked { request, question: Question::Reload { actor, reading } };
                self.reloads.waiting.push_front(event);
                return;
            }
            let reading = self.reloads.keep(request, reading, self.parts.journal.is_broken());
            self.events.push_back(Event::Asked { request, question: Question::Reload { actor, reading } });
        }
    }

    /// The core has answered. What a signal asked for is answered on the console, unless a record tells it there.
    pub(super) fn answered(&mut self, request: RequestId, answer: &Answer) {
        let was_tried = self.reloads.asked.take_if(|asked| *asked == request).is_some();
        match answer {
            Answer::Done { text } if is_by_signal(request) && !was_tried => {
                self.parts.console.say(&format!("SIGHUP: {text}"));
            }
            Answer::Refused(refusal) if is_by_signal(request) && refusal.reason == Reason::ReloadInProgress => {
                self.parts.console.say(&format!("SIGHUP: not reloaded: {}", refusal.reason));
            }
            _ => {}
        }
        if was_tried {
            self.go_on_reloading();
        }
    }

    /// The journal begins with the policy in force now: the one before is needed no longer.
    pub(super) fn settle(&mut self) {
        if self.reloads.unsettled.is_none() || self.reloads.next_hash.as_ref() != Some(&self.reloads.hash) {
            return;
        }
        match policy_file::settle(&self.reloads.runtime_dir) {
            Ok(()) => {
                (self.reloads.unsettled, self.reloads.next_hash) = (None, None);
                self.go_on_reloading();
            }
            // Until then there is no other reload, and the next supervisor looks at both files.
            Err(error) => self.parts.console.say(&format!(
                "{} cannot take its place: {error}; Hale goes on, and tries again with the journal's next snapshot",
                self.reloads.runtime_dir.join(policy_file::NEXT).display()
            )),
        }
    }

    /// Makes places for new services, and gives the others the limits and logs that they have now.
    pub(super) fn adapt(&mut self, policy: &Policy) {
        self.say_not_enforced(policy);
        self.share_history(policy);
        self.parts.stores.adapt(policy);
        for (name, service) in &policy.services {
            if let Some(hosted) = self.services.get_mut(name) {
                if hosted.adapt(service, &policy.host)
                    && let Err(error) = hosted.configure(&mut self.parts.keeper)
                {
                    self.parts.console.say(&format!("{name}: its log stays as it was: {error}"));
                }
                // A service that runs by other limits is better than one that nobody looks after.
                if let Err((file, error)) = hosted.limit(&service.limits) {
                    self.parts.console.say(&format!("{name}: its new limit cannot be set: {file}: {error}"));
                }
            } else if let Some(slot) = self.reloads.slot(name) {
                self.names.insert(slot, name.clone());
                self.services.insert(name.clone(), Hosted::new(name, slot, service, &policy.host));
            } else {
                self.parts.console.say(&format!("{name}: it has no place and cannot be started; reload once more"));
            }
        }
    }

    /// Lets those who may read the history read that of new services, on a thread, because the disk may hang; if it does, no
    /// other one is made.
    fn share_history(&mut self, policy: &Policy) {
        if self.reloads.sharing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let policy = policy.clone();
        let share = move || {
            if let Err(error) = groups::share_history(&policy) {
                eprintln!("hale: members of group {READ_GROUP} cannot read all of the history: {error}");
            }
        };
        self.reloads.sharing = std::thread::Builder::new().name(String::from("share")).spawn(share).ok();
    }

    /// Takes away what was made for a service that is gone. Its output stays, and so does its place: whatever of it the
    /// keeper has not read yet is this service's.
    pub(super) fn forget(&mut self, name: &Name) {
        let Some(mut hosted) = self.services.remove(name) else { return };
        let slot = hosted.slot();
        self.names.remove(&slot);
        // That it has ended is on record, and nobody would tell the guardian later.
        for (_, epoch) in self.unacknowledged.extract_if(.., |(service, _)| service == name) {
            if let Err(error) = self.parts.guardian.ack(slot, epoch) {
                self.parts.console.say(&format!("{name}: its exit cannot be acknowledged: {error}"));
            }
        }
        if let Some(fd) = hosted.notify_fd() {
            // The guardian's copy would keep it alive here.
            let _ = epoll::delete(&self.epoll, fd);
        }
        for key in hosted.keys() {
            if let Err(error) = self.parts.guardian.unstore(key) {
                self.parts.console.say(&format!("{name}: a socket of it stays open: {error}"));
            }
        }
        self.parts.prober.forget(name);
        hosted.left.closing.start(|| {});
        hosted.forget_left();
        drop(hosted);
        // What is left in its group, if anything, keeps it; the next Hale ends that.
        let _ = self.parts.trees.remove(name);
    }
}

/// The keys of what the guardian keeps for listening, from the `from`th on.
pub(in crate::supervisor) fn listen_keys(
    slot: Slot,
    sockets: std::ops::Range<usize>,
) -> impl Iterator<Item = StoreKey> {
    sockets.filter_map(move |index| u8::try_from(index).ok()).map(move |index| StoreKey::Listen(slot, index))
}
