//! Analyze: from what was sensed to what is wrong.

pub mod alike;
pub mod blame;
pub mod checks;
pub mod oom;
pub mod stall;
pub mod timers;
pub mod trace;
pub mod trend;
