//! Whether the supervisor makes progress: a number goes through its loop and has to come back in time.

/// How long after a proof the next one is asked for, in milliseconds: two wake-ups a second cost next to nothing, and a
/// supervisor that hangs has one and a half seconds to answer before it counts as lost.
const PAUSE_MS: u64 = 500;

/// How old the last proof may become, in milliseconds (architecture, section 3).
const PATIENCE_MS: u64 = 2_000;

/// How long the first proof may take, in milliseconds: a start reads the journal and the newest segment of the ledger,
/// ends leftovers for at most 5 s, and opens its sockets for at most 5 s.
const START_MS: u64 = 30_000;

/// How long the next supervisor waits after one that died before its first proof, in milliseconds; doubled each time up to
/// [`RETRY_MAX_MS`]. After one that had proven progress it starts at once.
const RETRY_MS: u64 = 100;

/// The longest wait between two such tries (architecture, section 3).
const RETRY_MAX_MS: u64 = 5_000;

/// How long after the last proof replacing counts as of no use, in milliseconds: two supervisors in a row had their
/// [`START_MS`], or some twenty died of the same thing.
const BEYOND_REPLACEMENT_MS: u64 = 2 * START_MS + PATIENCE_MS;

/// Less than this that it could not run is nothing to wait for, in milliseconds: it is what any process on a machine with work
/// to do waits for a processor now and then.
const WORTH_WAITING_MS: u64 = 50;

/// What the proofs say.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number that was sent last. Never used twice, not even for different supervisors.
    nonce: u64,
    /// Whether it has not come back.
    awaited: bool,
    /// Whether this supervisor has proven progress at all.
    proven: bool,
    /// Whether any has.
    ever_proven: bool,
    /// When the last proof came.
    last_proof_ms: u64,
    /// When the next number is sent or, if one is awaited, the supervisor counts as lost.
    due_ms: u64,
    /// The wait before the next one, if this one dies before its first proof.
    retry_ms: u64,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing yet.
    Nothing,
    /// A new number is to be sent.
    Challenge,
    /// No proof came in time.
    Lost,
}

impl Progress {
    /// A supervisor was started: it is challenged at once.
    pub fn begin(&mut self, now_ms: u64) {
        self.nonce += 1;
        (self.awaited, self.proven, self.due_ms) = (true, false, now_ms + START_MS);
    }

    /// The number to be sent, or sent last.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Whether this supervisor is in control.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Whether any supervisor ever was.
    pub fn ever_proven(&self) -> bool {
        self.ever_proven
    }

    /// Whether replacing does not help: there was progress, and none for long.
    pub fn is_lost_for_good(&self, now_ms: u64) -> bool {
        self.ever_proven && now_ms.saturating_sub(self.last_proof_ms) > BEYOND_REPLACEMENT_MS
    }

    /// When [`due`](Self::due) has something to say.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// A number came back; an old one, or a made-up one, proves nothing.
    pub fn prove(&mut self, nonce: u64, now_ms: u64) -> bool {
        if !self.awaited || nonce != self.nonce {
            return false;
        }
        (self.awaited, self.proven, self.ever_proven) = (false, true, true);
        (self.due_ms, self.retry_ms, self.last_proof_ms) = (now_ms + PAUSE_MS, 0, now_ms);
        true
    }

    /// What is due now; a challenge counts as sent from here on.
    pub fn due(&mut self, now_ms: u64) -> Due {
        if now_ms < self.due_ms {
            return Due::Nothing;
        }
        if self.awaited {
            return Due::Lost;
        }
        self.nonce += 1;
        self.awaited = true;
        self.due_ms += PATIENCE_MS - PAUSE_MS;
        Due::Challenge
    }

    /// The supervisor could not run for this long of the time since it was asked, because others did: that is no fault of its own.
    /// It gets that time again, without being asked anew. Says whether that is worth waiting for.
    pub fn excuse(&mut self, starved_ms: u64) -> bool {
        let excused = starved_ms >= WORTH_WAITING_MS;
        if excused {
            // The last proof grows old all the same: a machine on which nothing runs is one to be reset.
            self.due_ms += starved_ms;
        }
        excused
    }

    /// This process itself was late: it was stopped, or the machine was too busy for it, and so for the supervisor.
    pub fn credit(&mut self, late_ms: u64) {
        self.due_ms = self.due_ms.saturating_add(late_ms);
        self.last_proof_ms = self.last_proof_ms.saturating_add(late_ms);
    }

    /// The supervisor is gone: how long the next one waits, in milliseconds.
    pub fn end(&mut self) -> u64 {
        let wait_ms = self.retry_ms;
        self.retry_ms = (self.retry_ms * 2).clamp(RETRY_MS, RETRY_MAX_MS);
        self.awaited = false;
        if std::mem::take(&mut self.proven) { 0 } else { wait_ms.max(RETRY_MS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_is_lost_two_seconds_after_its_last_proof() {
        let mut progress = Progress::default();
        progress.begin(1_000);
        assert!(progress.prove(progress.nonce(), 1_100));
        assert_eq!(progress.due(1_599), Due::Nothing);
        assert_eq!(progress.due(1_600), Due::Challenge);
        assert_eq!(progress.due(3_099), Due::Nothing);
        assert_eq!(progress.due(3_100), Due::Lost);
        assert!(progress.prove(progress.nonce(), 3_100), "the last moment counts");
    }

    #[test]
    fn progress_is_lost_for_good_when_replacing_does_not_bring_it_back() {
        let mut progress = Progress::default();
        progress.begin(0);
        assert!(!progress.is_lost_for_good(u64::MAX), "a start that fails is somebody else's to tell");
        progress.prove(progress.nonce(), 1_000);
        progress.credit(500);
        progress.begin(4_000);
        let last = 1_500 + BEYOND_REPLACEMENT_MS;
        assert_eq!((progress.is_lost_for_good(last), progress.is_lost_for_good(last + 1)), (false, true));
        progress.prove(progress.nonce(), last + 2);
        assert!(!progress.is_lost_for_good(last + 3));
    }

    #[test]
    fn its_own_lateness_is_credited() {
        let mut progress = Progress::default();
        progress.begin(0);
        progress.prove(progress.nonce(), 0);
        assert_eq!(progress.due(500), Due::Challenge);
        progress.credit(10_000);
        assert_eq!(progress.due(11_999), Due::Nothing);
        assert_eq!(progress.due(12_000), Due::Lost);
    }

    #[test]
    fn what_it_could_not_run_is_given_again_but_no_proof_becomes_younger_by_it() {
        let mut progress = Progress::default();
        progress.begin(0);
        progress.prove(progress.nonce(), 0);
        assert_eq!(progress.due(500), Due::Challenge);
        assert_eq!(progress.due(2_000), Due::Lost);
        assert!(progress.excuse(1_400));
        assert_eq!(progress.due(3_399), Due::Nothing);
        assert_eq!(progress.due(3_400), Due::Lost);
        assert!(!progress.excuse(WORTH_WAITING_MS - 1), "an endless loop wants to run, too");
        while progress.due_ms() <= BEYOND_REPLACEMENT_MS {
            assert!(progress.excuse(1_000));
        }
        assert!(progress.is_lost_for_good(progress.due_ms()));
    }

    #[test]
    fn only_the_newest_number_proves_anything_and_only_once() {
        let mut progress = Progress::default();
        progress.begin(0);
        let first = progress.nonce();
        assert!(!progress.prove(first + 1, 1));
        assert!(progress.prove(first, 1));
        assert!(!progress.prove(first, 2));
        progress.begin(10);
        assert!(!progress.prove(first, 11), "another supervisor's");
    }

    #[test]
    fn only_those_that_die_before_their_first_proof_are_waited_for_ever_longer() {
        let mut progress = Progress::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            progress.begin(0);
            waits.push(progress.end());
        }
        assert_eq!(waits, [100, 100, 200, 400, 800, 1_600, 3_200, 5_000]);
        progress.begin(0);
        progress.prove(progress.nonce(), 0);
        assert_eq!(progress.end(), 0);
        progress.begin(0);
        assert_eq!(progress.end(), 100);
    }
}
