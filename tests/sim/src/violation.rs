//! What a checker says.

use std::fmt;

/// An invariant that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which one, by its name in the list of invariants; `panic` for an assertion of the code.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

pub(crate) type Checked<T = ()> = Result<T, Violation>;

impl Violation {
    pub(crate) fn new(invariant: &'static str, what: impl Into<String>) -> Self {
        Self {
            invariant,
            what: what.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Fails with a violation unless `holds`.
pub(crate) fn check(
    holds: bool,
    invariant: &'static str,
    what: impl FnOnce() -> String,
) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Violation::new(invariant, what()))
    }
}
