//! `hale-sim`: runs seeds.
use hale_sim::run::run;
use hale_sim::scenario::{Limits, Scenario};
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let mut coverage = hale_sim::coverage::Coverage::default();
    let mut failed = 0;
    let log = args.len() > 2;
    for seed in args[0]..args[0] + args[1] {
        let run = run(&Scenario::draw(seed, &Limits::default()));
        coverage.add(&run.coverage);
        if log {
            for r in &run.records {
                println!(
                    "{} {:?} {}",
                    r.at.mono.as_us(),
                    r.service.as_ref().map(|n| n.as_str()),
                    format!("{:?}", r.body)
                );
            }
        }
        if !run.violations.is_empty() {
            failed += 1;
            if failed <= 25 {
                println!("seed {seed}: {} violations", run.violations.len());
                for v in run.violations.iter().take(2) {
                    println!("   {v}");
                }
            }
        }
    }
    println!("{failed} failed, {} events\n{coverage}\nmissing {:?}", coverage.events, coverage.missing());
}
