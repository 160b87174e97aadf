//! `hale doctor`

use crate::cli::Format;
use crate::exit::Exit;
use crate::failure::Failure;
use hale_daemon::monitor::features::{Missing, missing};
use serde_json::json;
use std::io::Write;

/// Lists what Hale uses and this host does not have; exit status 1 if there is anything.
pub fn run(format: Format, out: &mut impl Write) -> Result<Exit, Failure> {
    let missing = missing();
    if format.json {
        writeln!(out, "{:#}", json!({ "missing": missing }))?;
    } else {
        write(&missing, out)?;
    }
    Ok(if missing.is_empty() { Exit::Done } else { Exit::Failed })
}

fn write(missing: &[Missing], out: &mut impl Write) -> std::io::Result<()> {
    if missing.is_empty() {
        return writeln!(out, "nothing is missing on this host");
    }
    for Missing { feature, cost, mend } in missing {
        writeln!(out, "missing: {feature}\n  cost: {cost}\n  mend: {mend}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_has_a_cost_and_a_remedy() {
        let mut shown = Vec::new();
        let one = Missing { feature: "x".into(), cost: "no y".into(), mend: "do z".into() };
        write(&[one], &mut shown).unwrap();
        assert_eq!(shown, b"missing: x\n  cost: no y\n  mend: do z\n");
    }
}
