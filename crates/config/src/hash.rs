//! The hash of a policy: the same for every way of writing the same meaning.

use hale_core::policy::{Policy, PolicyHash};
use sha2::{Digest, Sha256};

/// SHA-256 of `policy` as JSON: no spaces, the fields in the order of their declaration, the keys of maps in that of their bytes,
/// because `hale-core` has no map but the ordered one.
///
/// # Errors
///
/// None in practice: every policy has a JSON form.
pub(crate) fn policy_hash(policy: &Policy) -> Result<PolicyHash, serde_json::Error> {
    let text = serde_json::to_vec(policy)?;
    let hex: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(PolicyHash(hex.into()))
}
