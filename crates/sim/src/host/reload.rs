//! Reloads of the fake host: what is read, and what is kept of it for the next supervisor.

use super::FakeHost;
use crate::fault::Fault;
use crate::oracle::Seen;
use crate::reload::hash;
use hale_core::event::{Event, Question, Reading};
use hale_core::ids::RequestId;
use hale_core::policy::{Policy, PolicyHash};
use hale_core::reason::Reason;
use hale_core::record::{Actor, Body, Record};
use hale_core::world::World;

/// Requests from this number on are reloads.
const FIRST_RELOAD: u64 = 2_000_000_000;

/// The policies beside the journal.
#[derive(Debug)]
pub struct Policies {
    /// What the journal begins with.
    first: (PolicyHash, Policy),
    /// What was read last.
    next: Option<(PolicyHash, Policy)>,
    /// The core has it, and has not answered.
    asked: Option<RequestId>,
    /// It is in force, and the journal does not begin with it.
    unsettled: bool,
}

impl Policies {
    pub(super) fn new(policy: &Policy) -> Self {
        Self { first: (hash(0), policy.clone()), next: None, asked: None, unsettled: false }
    }

    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    pub(super) fn answered(&mut self, request: RequestId) {
        self.asked.take_if(|asked| *asked == request);
    }

    /// The journal begins with this one now.
    pub(super) fn settle(&mut self, begins_with: &PolicyHash) {
        if let Some(next) = self.next.take_if(|(hash, _)| hash == begins_with) {
            self.first = next;
            self.unsettled = false;
        }
    }

    /// What the next supervisor begins with, and what was read since.
    pub(super) fn hand_on(&self) -> ((PolicyHash, Policy), Option<(PolicyHash, Policy)>) {
        (self.first.clone(), self.next.clone())
    }

    /// The next supervisor begins with `world`; the clients of the one before are gone.
    pub(super) fn begin_anew(&mut self, world: &World) {
        self.asked = world.awaits_reload().then_some(RequestId(0));
    }
}

impl FakeHost<'_> {
    /// An operator reloads.
    pub(super) fn reload(&mut self, number: usize) {
        self.coverage.fault(Fault::Reload);
        let request = RequestId(FIRST_RELOAD + number as u64);
        let policies = &mut self.policies;
        let reading = match &self.scenario.reloads[number].policy {
            None => {
                let why = Reason::InvalidConfiguration { error: String::from("hale.toml:1:1: no such key") };
                Reading::Refused { why }
            }
            Some(_) if policies.asked.is_some() || policies.unsettled || self.supervisor.is_dead() => {
                Reading::Refused { why: Reason::ReloadInProgress }
            }
            Some(policy) => {
                let hash = hash(number + 1);
                policies.asked = Some(request);
                policies.next = Some((hash.clone(), policy.clone()));
                Reading::Valid { policy: Box::new(policy.clone()), hash }
            }
        };
        let actor = Actor { uid: 1_000, pid: 4_711, user: Some(String::from("anna")) };
        self.inbox.push_back(Event::Asked { request, question: Question::Reload { actor, reading } });
    }

    /// A record is written: perhaps another policy is in force.
    pub(super) fn take_up(&mut self, record: &Record) {
        if let Body::Reloaded(reload) = &record.body
            && let Some((_, policy)) = self.policies.next.as_ref().filter(|(hash, _)| *hash == reload.to)
        {
            self.policies.unsettled = true;
            self.judges.see(self.timeline.now(), Seen::Policy(policy));
        }
    }
}
