//! What a node does about its role, whoever runs it: decisions and facts over the store, without a
//! thread, a link or a clock.

use outlast_engine::format::{EpochReason, EpochRecord, History, Lsn, NodeId};
use outlast_engine::{LogState, LogView as StoreView, Store, TermMark};
use outlast_proto::{
    AckMark, Config, ConflictKind, Hello, Identity, Local, LogView, Meeting, Mode, Position,
    PrimaryFacts, Role as MeetingRole, StandbyFacts, Term,
};
use outlast_shipper::drive::{primary_view, protection_point};

use crate::status::Role;

/// What a node that starts does first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Boot {
    /// Follow its primary.
    Follow,
    /// Begin an epoch at once: nobody can have been promoted in its place.
    Begin(EpochReason),
    /// Wait to hear from its standby.
    Wait,
    /// Neither: it is fenced, or stands in a conflict.
    Stand,
}

/// What the node over `store`, just opened, does first: it boots as what it last was.
#[must_use]
pub fn boot(store: &Store) -> Boot {
    if store.state() != LogState::Reading {
        return Boot::Stand;
    }
    if !was_writer(store) {
        return Boot::Follow;
    }
    if store.has_peer() && store.is_attached() {
        return Boot::Wait;
    }
    Boot::Begin(match store.history().last() {
        None => EpochReason::Init,
        Some(_) => EpochReason::Restart,
    })
}

/// Whether the node over `store` was the writer when its log ended, or is made to be the first.
#[must_use]
pub fn was_writer(store: &Store) -> bool {
    match store.history().last() {
        Some(epoch) => epoch.node == store.node(),
        None => !store.follower_at_init(),
    }
}

/// What the node over `store` is; `follows` says whether a [`Following`](crate::drive::Following)
/// runs on it.
#[must_use]
pub fn role(store: &Store, follows: bool) -> Role {
    match store.state() {
        LogState::Writing => Role::Primary,
        LogState::Fenced(by) => Role::Fenced { term: by.term },
        LogState::Halted(what) => Role::Conflict { what },
        LogState::Poisoned(reason) => Role::Poisoned { reason },
        _ if follows => Role::Standby,
        _ => Role::WaitingForPeer,
    }
}

/// How a node of this role dials its peer; `None` when it does not.
#[must_use]
pub const fn dial_mode(role: &Role) -> Option<Mode> {
    match role {
        Role::Primary => Some(Mode::Ship),
        Role::WaitingForPeer => Some(Mode::Contact),
        _ => None,
    }
}

/// What to do about a Hello while this node, whose role this is, follows nobody.
pub fn meet(store: &Store, config: &Config, role: &Role, peer: NodeId, hello: &Hello) -> Meeting {
    let identity = identity(store);
    let role = match role {
        Role::Fenced { .. } => MeetingRole::Fenced,
        Role::Conflict { .. } => MeetingRole::Conflict(ConflictKind::EqualTerms),
        _ => MeetingRole::Primary,
    };
    let local = Local {
        identity: &identity,
        role,
        heard: heard(store),
    };
    outlast_proto::meet(config, &local, peer, hello)
}

/// Fences the node durably. If that cannot be, it closes: it must not go on acknowledging.
pub fn fence(store: &Store, term: Term) {
    let by = TermMark {
        term: term.number,
        opened_by: term.opened_by,
    };
    if let Err(error) = store.fence(by) {
        tracing::error!(%error, "the fence could not be made durable: this node closes");
        let _ = store.close();
    }
}

/// Stops the node durably, in a conflict. If that cannot be, it closes.
pub fn halt(store: &Store, kind: &ConflictKind, heard: Term) {
    let why = match kind {
        ConflictKind::EqualTerms => {
            let (number, theirs) = (heard.number, heard.opened_by);
            let ours = self::heard(store).opened_by;
            format!(
                "CONFLICT: two nodes opened term {number}: this one with epoch {ours}, the other \
                 with epoch {theirs}"
            )
        }
        other => format!("CONFLICT with the peer: {other:?}"),
    };
    if let Err(error) = store.halt(&why) {
        tracing::error!(%error, "the conflict could not be made durable: this node closes");
        let _ = store.close();
    }
}

/// Begins the epoch that a restarted primary has waited for.
///
/// # Errors
/// Those of [`Store::begin_epoch`].
pub fn resume(
    store: &Store,
    reason: EpochReason,
    note: &str,
) -> outlast_engine::Result<EpochRecord> {
    store.stop_following();
    store.begin_epoch(reason, note)
}

/// What is true of a primary that dials `peer` now; `remembered` is what [`remember`] kept of the
/// session before.
#[must_use]
pub fn primary_facts(store: &Store, peer: NodeId, remembered: Option<AckMark>) -> PrimaryFacts {
    PrimaryFacts {
        identity: identity(store),
        peer,
        heard: heard(store),
        log: log_view(store.log_view()),
        protection: store.newest_protection().map(protection_point),
        state: primary_view(store).state,
        remembered,
    }
}

/// Notes, before anything is answered, that a primary remembers more of this standby's
/// acknowledgements than this standby holds: nothing that it proves of the old promise is true
/// until that was sent again.
///
/// # Errors
/// Those of [`Store::note_tail_lost`].
pub fn compare_promises(
    store: &Store,
    history: &History,
    remembered: Option<AckMark>,
) -> outlast_engine::Result<()> {
    let Some(mark) = remembered else {
        return Ok(());
    };
    let mut epochs = history.epochs().iter();
    let epoch = epochs.find(|epoch| epoch.id == mark.epoch);
    let left = history.end_of(mark.epoch, Lsn(u64::MAX));
    let (Some(epoch), Some(left)) = (epoch, left) else {
        return Ok(());
    };
    let promised = mark.durable.min(left);
    if promised <= store.positions().durable.lsn {
        return Ok(());
    }
    store.note_tail_lost(epoch, promised)
}

/// What a primary keeps in mind of a durable position that its standby reported.
#[must_use]
pub fn remember(store: &Store, durable: Position) -> Option<AckMark> {
    let epoch = store.history().last().map(|epoch| epoch.id)?;
    Some(AckMark {
        epoch,
        durable: durable.lsn,
    })
}

/// What is true of a standby that begins to follow.
#[must_use]
pub fn standby_facts(store: &Store) -> StandbyFacts {
    let view = store.log_view();
    let visible_told = view.chain.visible;
    StandbyFacts {
        identity: identity(store),
        heard: heard(store),
        protection: store.protection_heard().map(protection_point),
        log: log_view(view),
        visible_told,
        acked: store
            .durable_mark()
            .map(|(epoch, durable)| AckMark { epoch, durable }),
    }
}

/// A store's view as the protocol takes it.
pub(crate) fn log_view(view: StoreView) -> LogView {
    LogView {
        end: view.chain,
        history: view.history,
        durable: view.positions.durable,
        applied: view.positions.visible,
    }
}

/// Who this node is, to the protocol.
fn identity(store: &Store) -> Identity {
    Identity {
        cluster: store.cluster(),
        node: store.node(),
        name: store.node_name(),
        segment_size: store.segment_size(),
    }
}

/// The highest term that a node ever heard of.
pub(crate) fn heard(store: &Store) -> Term {
    store.term_heard().map_or_else(
        || Term::of(&store.history()),
        |heard| Term {
            number: heard.term,
            opened_by: heard.opened_by,
        },
    )
}
