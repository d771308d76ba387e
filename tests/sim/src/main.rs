//! Runs seeds of the simulator.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use outlast_sim::{Counts, Options, Report, run};

/// Runs the pair under faults that are drawn from a seed, and checks every invariant.
#[derive(Parser, Debug)]
struct Args {
    /// Run one seed, and print what happened.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds: FIRST..END, without the end.
    #[arg(long, value_parser = seeds, default_value = "0..1000")]
    seeds: Range<u64>,
    /// Run so many seeds at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Print only what failed; hunt planted faults only until they are found.
    #[arg(long)]
    quiet: bool,
    /// Go on after a failing seed.
    #[arg(long)]
    keep_going: bool,
    /// Hunt every planted fault, and print the table.
    #[cfg(feature = "planted")]
    #[arg(long)]
    planted: bool,
    /// Plant this fault in every seed, by its name in the table.
    #[cfg(feature = "planted")]
    #[arg(long)]
    plant: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(feature = "planted")]
    if args.planted {
        return table(args.jobs, args.quiet);
    }
    let sound = match args.seed {
        Some(seed) => one(seed, &args),
        None => many(&args),
    };
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints how each planted fault was found, as a table of a document.
#[cfg(feature = "planted")]
fn table(jobs: usize, first_only: bool) -> ExitCode {
    use outlast_sim::planted::{Found, PLANTED, hunt};
    use std::sync::atomic::AtomicUsize;

    let next = AtomicUsize::new(0);
    let worker = || {
        let mut hunted: Vec<(usize, Option<Found>)> = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(planted) = PLANTED.get(index) else {
                return hunted;
            };
            hunted.push((index, hunt(planted, first_only)));
        }
    };
    let mut hunted: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        let done: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.into_iter().flatten().flatten().collect()
    });
    hunted.sort_by_key(|(index, _)| *index);
    let mut missed = PLANTED.len();
    println!("| fault | planted as | found by | first seed | failing seeds | must be within |");
    println!("|---|---|---|--:|--:|--:|");
    for (planted, (_, found)) in PLANTED.iter().zip(&hunted) {
        let (name, what, within) = (format!("{:?}", planted.bug), planted.what, planted.within);
        match found {
            Some(found) => {
                missed -= 1;
                println!(
                    "| {what} | `{name}` | {} | {} | {} of {} | {within} |",
                    found.invariant, found.seed, found.failing, found.seeds
                );
            }
            None => println!("| {what} | `{name}` | **not found** | | 0 | {within} |"),
        }
    }
    println!("{missed} of {} not found", PLANTED.len());
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How seeds are run.
fn options(args: &Args, trace: bool) -> Options {
    #[cfg(feature = "planted")]
    let bug = args.plant.as_ref().map(|name| {
        let all = outlast_sim::planted::PLANTED;
        let named = all
            .iter()
            .find(|planted| format!("{:?}", planted.bug) == *name);
        match named {
            Some(planted) => planted.bug,
            None => panic!("no fault is planted as {name}"),
        }
    });
    #[cfg(not(feature = "planted"))]
    let _ = args;
    Options {
        trace,
        #[cfg(feature = "planted")]
        bug,
        ..Options::default()
    }
}

fn one(seed: u64, args: &Args) -> bool {
    let report = run(seed, options(args, true));
    if !args.quiet || report.violation.is_some() {
        for line in &report.lines {
            println!("{line}");
        }
    }
    println!(
        "seed {seed}: trace {:016x}, decisions {:016x}, {} events",
        report.trace_hash, report.decisions_hash, report.counts.steps
    );
    if let Some(violation) = &report.violation {
        println!("seed {seed}: {violation}");
    }
    report.violation.is_none()
}

fn many(args: &Args) -> bool {
    let began = Instant::now();
    let options = options(args, false);
    let next = AtomicU64::new(args.seeds.start);
    let worker = || {
        let mut counts = Counts::default();
        let mut failed: Vec<Report> = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= args.seeds.end {
                return (counts, failed);
            }
            let report = run(seed, options);
            counts += report.counts;
            if report.violation.is_some() {
                failed.push(report);
                if !args.keep_going {
                    next.store(args.seeds.end, Ordering::Relaxed);
                }
            }
        }
    };
    let done: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join()).collect()
    });
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    for (some, reports) in done.into_iter().flatten() {
        counts += some;
        failed.extend(reports);
    }
    failed.sort_by_key(|report| report.seed);
    for report in &failed {
        let Some(violation) = &report.violation else {
            continue;
        };
        println!("seed {}: {violation}", report.seed);
        println!(
            "  replay: cargo run --release -p outlast-sim -- --seed {}",
            report.seed
        );
    }
    let seeds = args.seeds.end.saturating_sub(args.seeds.start);
    if !args.quiet {
        for (name, count) in counts.rows() {
            println!("{name:>16} {count}");
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds, {} failed, {seconds:.1} s, {:.2} ms a seed and worker",
        failed.len(),
        seconds * 1e3 * args.jobs.max(1) as f64 / seeds.max(1) as f64
    );
    failed.is_empty()
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text
        .split_once("..")
        .ok_or_else(|| format!("`{text}`: write FIRST..END"))?;
    let number = |text: &str| {
        text.replace('_', "")
            .parse::<u64>()
            .map_err(|e| e.to_string())
    };
    Ok(number(first)?..number(end)?)
}
