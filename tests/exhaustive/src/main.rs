//! Searches each configuration, then each rule switched off, and prints what was found.

use std::process::ExitCode;
use std::time::Instant;

use outlast_exhaustive::pair::Pair;
use outlast_exhaustive::rules::Rule;
use outlast_exhaustive::search::{Searched, search};
use outlast_exhaustive::{configurations, without};

fn main() -> ExitCode {
    let mut good = true;
    for (name, pair) in configurations() {
        let began = Instant::now();
        let searched = search(&pair, usize::MAX);
        let Searched { states, depth, .. } = searched;
        let seconds = began.elapsed().as_secs_f64();
        println!("{name}: {states} states, depth {depth}, {seconds:.1} s");
        good &= searched.complete && searched.found.is_none();
        tell(&searched);
    }
    for rule in Rule::ALL {
        let (name, searched) = without(rule);
        println!("\nwithout {rule:?} ({name}, {} states):", searched.states);
        good &= searched.found.is_some();
        tell(&searched);
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn tell(searched: &Searched<<Pair as outlast_exhaustive::search::Model>::Step>) {
    let Some(found) = &searched.found else {
        println!("  no promise is broken");
        return;
    };
    for (number, step) in found.trace.iter().enumerate() {
        println!("  {:2} {step}", number + 1);
    }
    println!("     => {}", found.broken);
}
