//! Settling a conflict: an operator says which history stays. Nothing is merged, and no node
//! chooses by number, time or length.

use outlast_engine::format::{EpochId, EpochRecord, NodeId};
use serde::{Deserialize, Serialize};

use crate::certificate::Finding;
use crate::status::Role;

/// Digits of an epoch's id that name one of this node: those that tables show.
const SHORT_DIGITS: usize = 8;
/// All of its digits: what names one that only the other node has.
const ALL_DIGITS: usize = 32;

/// How a conflict is to be settled.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ResolveOptions {
    /// The newest epoch of the history that stays: its id, or `TERM.START/ID` as the status shows
    /// it.
    pub keep: String,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Why, for the record.
    pub reason: String,
}

/// What became of a conflict. `"schema": 1`; fields are only ever added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resolution {
    /// Version of this layout.
    pub schema: u32,
    /// What became of it.
    pub outcome: ResolveOutcome,
    /// The node that was asked.
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// The newest epoch of its history when it was asked.
    pub newest: Option<EpochRecord>,
    /// The epoch that it began, of a higher term, if its history stays.
    pub epoch: Option<EpochRecord>,
    /// Which commits are lost with the history that does not stay.
    pub lost_report: Finding<String>,
    /// The way of the other node back into the pair.
    pub rejoin: Finding<String>,
}

/// What became of a conflict, on the node that was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ResolveOutcome {
    /// Its history stays: it takes writes, in a new epoch of a higher term.
    Kept,
    /// A dry run: its history would stay.
    WouldKeep,
    /// Its history is a fork: it stays readable and whole, and takes no writes.
    Fork,
    /// A dry run: its history would be a fork.
    WouldBeFork,
    /// Something stands in the way; nothing was changed.
    Refused {
        /// Why.
        why: String,
        /// What to type instead.
        next: String,
    },
}

/// What to do on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Choice {
    /// Go on in a higher term.
    Keep,
    /// Stay a fork of the history that this epoch belongs to.
    Fork(EpochId),
    /// Nothing.
    Refuse { why: String, next: String },
}

/// Decides. The same facts and options always give the same choice, in a dry run too.
pub(crate) fn choose(
    role: &Role,
    newest: Option<&EpochRecord>,
    options: &ResolveOptions,
) -> Choice {
    let refuse = |why: String, next: &str| Choice::Refuse {
        why,
        next: next.to_owned(),
    };
    let (Role::Conflict { .. }, Some(newest)) = (role, newest) else {
        let role = role.name();
        let why = format!("this node stands in no conflict (it is: {role})");
        return refuse(why, "outlast status");
    };
    let line = "outlast resolve --keep EPOCH --reason '…'";
    let digits = options.keep.rsplit('/').next().unwrap_or_default();
    let digits = digits.to_ascii_lowercase();
    let is_id = digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        && (SHORT_DIGITS..=ALL_DIGITS).contains(&digits.len());
    if !is_id {
        let why = format!("`{}` is no epoch: its id has 8 to 32 digits", options.keep);
        return refuse(why, "outlast status, on both nodes");
    }
    if options.reason.trim().is_empty() {
        let why = "no reason was given for the record".to_owned();
        return refuse(why, line);
    }
    if newest.id.to_string().starts_with(&digits) {
        return Choice::Keep;
    }
    match digits.parse() {
        Ok(id) if digits.len() == ALL_DIGITS => Choice::Fork(id),
        _ => refuse(
            format!(
                "{} is not the newest epoch of this node, which is {}.{}/{}",
                options.keep,
                newest.term,
                newest.start,
                newest.id.short()
            ),
            "type it on the node whose history stays: this one steps back by itself when the two \
             meet. If they cannot, give all 32 digits of that epoch here, as `outlast status -o \
             json` prints them there",
        ),
    }
}

#[cfg(test)]
mod tests {
    use outlast_engine::format::{EpochReason, Lsn};

    use super::*;

    fn newest() -> EpochRecord {
        let id: EpochId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        EpochRecord {
            term: 2,
            start: 3,
            id,
            parent: EpochId::NONE,
            opened_by: id,
            fork: Lsn(4096),
            node: NodeId::random(),
            node_name: "b".into(),
            reason: EpochReason::Promotion,
            note: String::new(),
            wall_ms: 0,
        }
    }

    fn chosen(keep: &str) -> Choice {
        let conflict = Role::Conflict {
            what: "CONFLICT".into(),
        };
        let options = ResolveOptions {
            keep: keep.into(),
            dry_run: false,
            reason: "the other one had no clients".into(),
        };
        choose(&conflict, Some(&newest()), &options)
    }

    #[test]
    fn its_own_newest_epoch_is_kept_and_another_one_only_by_all_of_its_digits() {
        let own = [
            "01234567",
            "2.3/01234567",
            "0123456789ABCDEF",
            "2.3/0123456789abcdef0123456789abcdef",
        ];
        for own in own {
            assert_eq!(chosen(own), Choice::Keep, "{own}");
        }
        let other = "f123456789abcdef0123456789abcdef";
        assert_eq!(chosen(other), Choice::Fork(other.parse().unwrap()));
        let unclear = [
            "",
            "0123456",
            "f1234567",
            "2.3",
            "2.3/f123456789abcdef",
            "0123456789abcdef0123456789abcdef0",
            "+1234567",
            "b",
        ];
        for unclear in unclear {
            let choice = chosen(unclear);
            assert!(
                matches!(choice, Choice::Refuse { .. }),
                "{unclear}: {choice:?}"
            );
        }
    }

    #[test]
    fn only_a_conflict_is_settled_and_only_for_a_reason() {
        let options = ResolveOptions {
            keep: "01234567".into(),
            dry_run: false,
            reason: "why".into(),
        };
        for role in [Role::Primary, Role::Standby, Role::Fenced { term: 3 }] {
            let choice = choose(&role, Some(&newest()), &options);
            assert!(
                matches!(choice, Choice::Refuse { .. }),
                "{role:?}: {choice:?}"
            );
        }
        let conflict = Role::Conflict {
            what: String::new(),
        };
        let silent = ResolveOptions {
            reason: " ".into(),
            ..options
        };
        let choice = choose(&conflict, Some(&newest()), &silent);
        assert!(matches!(choice, Choice::Refuse { .. }), "{choice:?}");
    }
}
