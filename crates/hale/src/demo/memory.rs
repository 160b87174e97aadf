//! Memory that a demo service takes on request and never gives back.

use std::time::Duration;

/// How much where nobody says: more than a small `memory_limit`, and little for a machine.
pub const MIB_DEFAULT: u32 = 64;
/// How much at most: enough for any machine's limit, and a typo does not run for a day.
const MIB_MAX: u32 = 1 << 20;
const MIB: usize = 1 << 20;

/// Takes so many MiB, so many of them a second or as fast as it can, and keeps them until the process ends.
pub fn take(mib: u32, rate: Option<u32>) {
    let pause = rate.filter(|rate| *rate > 0).map(|rate| Duration::from_secs(1) / rate);
    for _ in 0..mib.min(MIB_MAX) {
        // Written to: memory that nobody has touched is not there (mmap(2)). And seen, as far as the compiler can know: an
        // optimised build leaves out an allocation that nobody looks at.
        std::mem::forget(std::hint::black_box(vec![1_u8; MIB]));
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
    }
}
