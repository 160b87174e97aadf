//! The `tcp` check: a connection can be made.

use super::connect::Resolver;
use super::{Deadline, Verdict};

/// Connects to `address` and closes the connection again.
pub(super) async fn probe(address: &str, resolver: &Resolver, deadline: Deadline) -> Result<Verdict, Verdict> {
    resolver.connect(address, None, deadline).await?;
    Ok(Verdict::pass(format_args!("connected in {}", deadline.elapsed())))
}
