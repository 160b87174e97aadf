//! System calls that no safe crate offers: the only place with unsafe code.
