//! Two small models, of which every reachable state is visited, the shortest traces first: a pair
//! with its clocks (gate, lease, sessions, protection record, promotion), and up to three nodes
//! without clocks (terms, epochs, logs, two promotions).
//!
//! They are models: rules are written down again, small. The simulator is what runs the product
//! itself. What the models add is that within their limits no order of events is left out, and
//! that each of their rules is shown to be needed: with one switched off, the search finds what
//! goes wrong.
//!
//! [`mod@search`] knows nothing of nodes; [`pair`] and [`terms`] are what may happen;
//! [`pair::Rule`] and [`terms::Rule`] are what can be switched off.

pub mod pair;
pub mod search;
pub mod terms;

mod configurations;

pub use configurations::{nodes, nodes_without, pair_without, pairs};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::{Model, search};

    /// Those that are searched in a moment; the others are left to the binary.
    const QUICK: [&str; 5] = [
        "commits",
        "in force",
        "the primary goes on alone",
        "promoted twice",
        "two standbys, a crash",
    ];

    fn sound<M: Model<Step: std::fmt::Debug>>(configurations: Vec<(&str, M)>) {
        let quick = |(name, _): &(&str, M)| QUICK.contains(name);
        for (name, model) in configurations.into_iter().filter(quick) {
            let searched = search(&model, usize::MAX);
            assert!(
                searched.complete && searched.found.is_none(),
                "{name}: {searched:?}"
            );
        }
    }

    #[test]
    fn no_order_of_events_breaks_a_promise() {
        sound(pairs());
    }

    #[test]
    fn no_order_of_promotions_breaks_a_promise() {
        sound(nodes());
    }

    #[test]
    fn each_rule_of_a_pair_is_needed() {
        use pair::Rule;
        for rule in Rule::ALL {
            // Its trace is long.
            if rule == Rule::EchoOfThisSession {
                continue;
            }
            let (name, searched) = pair_without(rule);
            assert!(
                searched.found.is_some(),
                "nothing goes wrong without {rule:?} in {name}"
            );
        }
    }

    #[test]
    fn each_rule_of_terms_is_needed() {
        use terms::Rule;
        for rule in Rule::ALL {
            let long = [
                Rule::EqualTermsConflict,
                Rule::HandshakeOfThisSession,
                Rule::AckOfThisSession,
                Rule::FetchBack,
            ];
            if long.contains(&rule) {
                continue;
            }
            let (name, searched) = nodes_without(rule);
            assert!(
                searched.found.is_some(),
                "nothing goes wrong without {rule:?} in {name}"
            );
        }
    }
}
