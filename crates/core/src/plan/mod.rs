//! Plan: which rung of the ladder, when, in which order, or why not. Pure functions of what they are given.

pub mod admission;
pub mod before_limit;
pub mod ladder;
pub mod order;
pub mod reboot;
pub mod take_back;
