//! Searches each configuration, then each rule switched off, and prints what was found.

use std::fmt::{Debug, Display};
use std::process::ExitCode;
use std::time::Instant;

use outlast_exhaustive::search::{Model, Searched, search};
use outlast_exhaustive::{nodes, nodes_without, pair, pair_without, pairs, terms};

fn main() -> ExitCode {
    let mut good = true;
    for (name, pair) in pairs() {
        good &= sound(name, &pair);
    }
    for (name, nodes) in nodes() {
        good &= sound(name, &nodes);
    }
    for rule in pair::Rule::ALL {
        good &= needed(&rule, pair_without(rule));
    }
    for rule in terms::Rule::ALL {
        good &= needed(&rule, nodes_without(rule));
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether every state was visited and none breaks a promise.
fn sound<M: Model<Step: Display>>(name: &str, model: &M) -> bool {
    let began = Instant::now();
    let searched = search(model, usize::MAX);
    let Searched { states, depth, .. } = searched;
    let seconds = began.elapsed().as_secs_f64();
    println!("{name}: {states} states, depth {depth}, {seconds:.1} s");
    tell(&searched);
    searched.complete && searched.found.is_none()
}

/// Whether something goes wrong without the rule.
fn needed<S: Display>(rule: &impl Debug, (name, searched): (&str, Searched<S>)) -> bool {
    println!("\nwithout {rule:?} ({name}, {} states):", searched.states);
    tell(&searched);
    searched.found.is_some()
}

fn tell<S: Display>(searched: &Searched<S>) {
    let Some(found) = &searched.found else {
        println!("  no promise is broken");
        return;
    };
    for (number, step) in found.trace.iter().enumerate() {
        println!("  {:2} {step}", number + 1);
    }
    println!("     => {}", found.broken);
}
