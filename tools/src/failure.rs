//! Errors as people read them.

use std::fmt;
use std::io::{self, Write};

use outlast_tools::exit::Exit;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    /// A failure that ends the program with `exit`.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
            hint: None,
        }
    }

    /// Says what to do or to type next.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The code that it ends the program with.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// Tells people, on stderr, and returns the exit code.
    pub(crate) fn report(&self) -> Exit {
        if self.exit != Exit::Ok {
            // There is nobody left to tell if stderr is closed.
            let _ = write!(io::stderr().lock(), "{self}");
        }
        self.exit
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failure, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.error)?;
        for cause in self.error.chain().skip(1) {
            writeln!(f, "caused by: {cause}")?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_reads_as_what_why_and_what_next() {
        let missing = || -> anyhow::Result<()> {
            Err(io::Error::other("disk on fire")).context("cannot read")
        };
        let failure = Failure::new(Exit::Usage, missing().unwrap_err()).hint("use another disk");
        let text = "error: cannot read\ncaused by: disk on fire\nhint: use another disk\n";
        assert_eq!(failure.to_string(), text);
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(Failure::from(io::Error::other("x")).exit, Exit::Failure);
    }
}
