//! What must not be, and how it reads.

use std::fmt;

use serde::Serialize;

use super::Answered;
use crate::drill::promise::Limits;

/// Something that must not be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "violation")]
#[non_exhaustive]
pub enum Violation {
    /// A part of the promoted state that never was.
    NeverWas {
        /// Whose.
        writer: usize,
        /// After how many of its batches it is so.
        equal: Vec<u64>,
    },
    /// A key that nobody wrote.
    StrangeKey {
        /// It.
        key: String,
    },
    /// The promoted node holds another number of commits than its certificate says.
    OtherCount {
        /// What it holds.
        found: u64,
        /// What is certified.
        certified: u64,
    },
    /// A commit that the promoted node must hold by its number or place, and does not.
    Missing {
        /// It.
        answered: Answered,
    },
    /// A commit that the promoted node holds, although it ends behind what it says to hold.
    Misplaced {
        /// It.
        answered: Answered,
    },
    /// One number given to two commits.
    SameNumber {
        /// The number.
        commit: u64,
    },
    /// More was lost than promised.
    OverBound {
        /// In what.
        unit: Unit,
        /// How much.
        lost: u64,
        /// What was promised.
        most: u64,
    },
    /// More was lost than certified.
    OverCertificate {
        /// In what.
        unit: Unit,
        /// How much.
        lost: u64,
        /// What was certified.
        most: u64,
    },
    /// The certificate names another bound than the one in force.
    OtherBound {
        /// What it names.
        certified: Limits,
    },
    /// A bound was in force, and the certificate does not vouch for it.
    NothingCertified {
        /// Why not.
        why: String,
    },
    /// A bound is certified where none was promised.
    CertifiedUnpromised,
    /// More is said to be known lost than was ever sent.
    MeasuredTooMuch {
        /// What is said.
        measured: u64,
        /// What was sent and is not there.
        possible: u64,
    },
    /// A commit that was sent after the certificate said FENCED was answered OK.
    AnsweredAfterFence {
        /// The first such.
        answered: Answered,
    },
    /// A commit that was sent when the line had been cut for longer than the lease was answered OK.
    AnsweredAfterLease {
        /// The first such.
        answered: Answered,
    },
    /// A commit that was sent after the old primary said that it is fenced was answered OK.
    AnsweredAfterTerm {
        /// The first such.
        answered: Answered,
    },
}

/// What a loss is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Commits.
    Commits,
    /// Bytes of log.
    Bytes,
    /// Milliseconds from answer to answer.
    Ms,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commits => "commits",
            Self::Bytes => "bytes",
            Self::Ms => "ms",
        })
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            writer,
            batch,
            commit,
            lsn,
            sent,
            answered,
        } = self;
        write!(
            f,
            "commit {commit} (to {lsn}; batch {batch} of writer {writer}, sent after {sent:.1?}, \
             answered after {answered:.1?})"
        )
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverWas { writer, equal } => write!(
                f,
                "what the promoted node holds of writer {writer} never was: it equals its state \
                 after so many of its batches: {equal:?}"
            ),
            Self::StrangeKey { key } => {
                write!(f, "the promoted node holds {key:?}: nobody wrote it")
            }
            Self::OtherCount { found, certified } => write!(
                f,
                "the promoted node holds {found} commits; its certificate says {certified}"
            ),
            Self::Missing { answered } => {
                write!(
                    f,
                    "answered, within what the certificate covers, and not there: {answered}"
                )
            }
            Self::Misplaced { answered } => {
                write!(
                    f,
                    "there, but beyond what the certificate covers: {answered}"
                )
            }
            Self::SameNumber { commit } => write!(f, "two commits have the number {commit}"),
            Self::OverBound { unit, lost, most } => {
                write!(f, "{lost} {unit} were lost, and the bound is {most}")
            }
            Self::OverCertificate { unit, lost, most } => {
                write!(
                    f,
                    "{lost} {unit} were lost, and the certificate says at most {most}"
                )
            }
            Self::OtherBound { certified } => {
                write!(
                    f,
                    "the certificate names another bound than is in force: {certified:?}"
                )
            }
            Self::NothingCertified { why } => {
                write!(
                    f,
                    "a bound was in force and the certificate is UNBOUNDED: {why}"
                )
            }
            Self::CertifiedUnpromised => f.write_str("a bound is certified and none was promised"),
            Self::MeasuredTooMuch { measured, possible } => write!(
                f,
                "{measured} commits are said to be known lost, and no more than {possible} can be"
            ),
            Self::AnsweredAfterFence { answered } => {
                write!(
                    f,
                    "sent after the certificate said FENCED, and answered: {answered}"
                )
            }
            Self::AnsweredAfterLease { answered } => write!(
                f,
                "sent when the line had been cut for longer than the lease, and answered: \
                 {answered}"
            ),
            Self::AnsweredAfterTerm { answered } => {
                write!(
                    f,
                    "sent after the old primary was fenced by term, and answered: {answered}"
                )
            }
        }
    }
}
