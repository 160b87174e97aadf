//! A packet that the guardian sends: what is understood of it is the same once it was written again.

use hale_daemon::protocol::wire::{read, write};
use hale_daemon::protocol::{GuardianEvent, MAX_ANSWER_BYTES};

pub fn run(input: &[u8]) {
    let Some(event) = read::<GuardianEvent>(input, None) else { return };
    let mut space = [0; MAX_ANSWER_BYTES];
    let written = write(&event, &mut space);
    let again: Option<GuardianEvent> = read(written, None);
    assert_eq!(format!("{:?}", Some(event)), format!("{again:?}"));
}
