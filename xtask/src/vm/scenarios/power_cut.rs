//! After a power cut at any moment the ledger verifies, has each order that was answered, and all services come back.

use super::{SERVICES, await_healthy, configuration};
use crate::tools::Outcome;
use crate::vm::guest::Guest;
use crate::vm::machine::{Bench, DiskCache, Machine};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Cuts with a disk that keeps what it took.
const CUTS: u64 = 10;
/// The same with `--full`.
const CUTS_FULL: u64 = 100;

/// The cut comes at a random moment between these, counted from the first order: in the middle of one of many.
const EARLIEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(6);

/// How many orders of each service were answered with exit code 0, and how many were sent.
#[derive(Debug, Default, Clone, Copy)]
struct Orders {
    answered: usize,
    sent: usize,
}

pub fn run(bench: &Bench) -> Outcome {
    let mut seed = bench.seed;
    let mut orders = BTreeMap::new();
    let machine = Machine { files: vec![configuration()], ..Machine::default() };
    let mut guest = bench.boot_new(&machine)?;
    for cut in 1..=if bench.full { CUTS_FULL } else { CUTS } {
        await_healthy(&mut guest)?;
        order_until_cut(guest, &mut orders, random(&mut seed), cut)?;
        guest = bench.boot(&machine)?;
        check(&mut guest, &orders)?;
    }
    await_healthy(&mut guest)?;
    drop(guest);

    // A disk that ignores flushes may lose what was answered; what is left must still be whole.
    let machine = Machine { disk_cache: DiskCache::Unsafe, ..machine };
    let mut guest = bench.boot_new(&machine)?;
    await_healthy(&mut guest)?;
    let mut orders = BTreeMap::new();
    order_until_cut(guest, &mut orders, random(&mut seed), 0)?;
    let mut guest = bench.boot(&machine)?;
    guest.must("hale ledger verify")?;
    match check(&mut guest, &orders) {
        Ok(()) => println!("a disk that ignores flushes: nothing was lost"),
        Err(message) => println!("a disk that ignores flushes: {message}"),
    }
    Ok(())
}

/// Orders restarts, one after the other, until the power is cut.
fn order_until_cut(mut guest: Guest, orders: &mut BTreeMap<&str, Orders>, random: u64, cut: u64) -> Outcome {
    let spread_ms = u64::try_from((LATEST - EARLIEST).as_millis()).unwrap_or(u64::MAX);
    let after = EARLIEST + Duration::from_millis(random % spread_ms);
    let at = Instant::now() + after;
    for service in SERVICES.iter().cycle() {
        orders.entry(service).or_default().sent += 1;
        match guest.run_until(&format!("hale restart {service}"), at)? {
            Some(answer) if answer.exit == 0 => orders.entry(service).or_default().answered += 1,
            Some(answer) => {
                return Err(guest.failure(&format!("hale restart {service}: {} {}", answer.exit, answer.output)));
            }
            None => break,
        }
    }
    let answered: usize = orders.values().map(|orders| orders.answered).sum();
    println!("cut {cut}: after {after:?}, {answered} orders answered so far");
    guest.cut_power()
}

/// The ledger is whole and has at least the answered orders, and no more than were sent.
fn check(guest: &mut Guest, orders: &BTreeMap<&str, Orders>) -> Outcome {
    guest.must("hale ledger verify")?;
    for (service, Orders { answered, sent }) in orders {
        let pattern = r#""kind":"ordered".*"order":"restart","service":"SERVICE""#.replace("SERVICE", service);
        let count = guest.run(&format!("hale ledger show --json | grep -c '{pattern}'"))?;
        let there: usize = count.output.trim().parse().map_err(|e| format!("{e}: {}", count.output))?;
        if there < *answered || there > *sent {
            let what = format!("{service}: {sent} restarts ordered, {answered} answered, {there} in the ledger");
            return Err(guest.failure(&what));
        }
    }
    Ok(())
}

/// The next number of xorshift64 (Marsaglia, Xorshift RNGs, 2003).
pub(super) fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
