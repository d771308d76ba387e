//! Two small models, of which every reachable state is visited, the shortest traces first: a pair
//! with its clocks (gate, lease, sessions, protection record, promotion), and up to three nodes
//! without clocks (terms, epochs, logs, two promotions).
//!
//! They are models: rules are written down again, small. The simulator is what runs the product
//! itself. What the models add is that within their limits no order of events is left out, and
//! that each of their rules is shown to be needed: with one switched off, the search finds what
//! goes wrong.
//!
//! [`mod@search`] knows nothing of nodes; [`pair`] and [`terms`] are what may happen; [`rules`] and
//! [`terms::Rule`] are what can be switched off.

pub mod pair;
pub mod rules;
pub mod search;
pub mod terms;
mod words;

mod configurations;

pub use configurations::{nodes, nodes_without, pair_without, pairs};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::search;

    #[test]
    fn no_order_of_events_breaks_a_promise() {
        // The largest ones are left to the binary.
        for (name, pair) in pairs() {
            if name != "primary restarts" && name != "duplicates" {
                let searched = search(&pair, usize::MAX);
                assert!(
                    searched.complete && searched.found.is_none(),
                    "{name}: {searched:?}"
                );
            }
        }
    }

    #[test]
    fn each_rule_of_a_pair_is_needed() {
        for rule in rules::Rule::ALL {
            let (name, searched) = pair_without(rule);
            assert!(
                searched.found.is_some(),
                "nothing goes wrong without {rule:?} in {name}"
            );
        }
    }
    #[test]
    fn no_order_of_promotions_breaks_a_promise() {
        for (name, nodes) in nodes() {
            if name == "promoted twice" || name == "two standbys, a crash" {
                let searched = search(&nodes, usize::MAX);
                assert!(
                    searched.complete && searched.found.is_none(),
                    "{name}: {searched:?}"
                );
            }
        }
    }

    #[test]
    fn each_rule_of_terms_is_needed() {
        use terms::Rule;
        for rule in Rule::ALL {
            // Those whose trace is long are left to the binary.
            if matches!(
                rule,
                Rule::EqualTermsConflict
                    | Rule::HandshakeOfThisSession
                    | Rule::AckOfThisSession
                    | Rule::RestartWaitsForStandby
                    | Rule::FetchBack
                    | Rule::AttachmentNoted
            ) {
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
