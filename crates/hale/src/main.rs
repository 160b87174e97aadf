//! Hale.
fn main() {}
