//! What the log of a standby proves of its primary's promise about loss.

use std::time::Duration;

use outlast_engine::Store;
use outlast_engine::format::{EpochReason, Lsn};
use outlast_engine::planted::{Bug, on};
use outlast_proto::{CLOCK_RATE_ERROR_PPM, Policy, Protection, Standing, fenced_after};

use crate::certificate::{CertifiedBound, Finding};

/// The bound that the old primary kept, if this node's log proves one: its newest protection record
/// is in the log, durable, of this term, and says that it is in force.
#[must_use]
pub fn proven(store: &Store) -> Finding<CertifiedBound> {
    proven_with(store, store.positions().durable.lsn)
}

/// The bound that is proven once this node has made its log durable up to `durable`.
#[must_use]
pub(crate) fn proven_with(store: &Store, durable: Lsn) -> Finding<CertifiedBound> {
    match prove(store, durable) {
        Ok(bound) => Finding::Known(bound),
        Err(why) => Finding::NotAvailable(why.to_owned()),
    }
}

fn prove(store: &Store, durable: Lsn) -> Result<CertifiedBound, &'static str> {
    const NONE: &str = "the policy async has none";
    let Some(newest) = store.protections().pop() else {
        return Err(NONE);
    };
    let history = store.history();
    // An epoch that was not begun by a plain restart begins with nothing promised.
    let opening = history.epochs().iter().rev();
    let mut opening = opening.skip_while(|epoch| epoch.reason == EpochReason::Restart);
    let from = opening.next().map_or(Lsn::ZERO, |epoch| epoch.fork);
    if newest.mark.lsn <= from {
        return Err("nothing was promised since the old primary took over");
    }
    let order = |mark: &outlast_engine::ProtectionMark| (mark.term, mark.start, mark.lsn);
    let heard = store.protection_heard();
    let newer = heard.is_some_and(|heard| order(&heard) > order(&newest.mark));
    if newer && !on(Bug::CertificateIgnoresHeard) {
        return Err("the old primary wrote a newer protection record, which this node lacks");
    }
    if newest.mark.lsn > durable {
        return Err("the newest protection record is not durable here");
    }
    if store.recovered().acked_tail_lost.is_some() {
        return Err("this node lost what it had acknowledged");
    }
    let promise = Protection::try_from(&newest.record)
        .map_err(|_| "the newest protection record is not one that this version knows")?;
    let Policy::Bounded(bound) = promise.policy else {
        return Err(NONE);
    };
    match promise.standing {
        Standing::InForce => {}
        _ if on(Bug::CertificateIgnoresStanding) => {}
        Standing::Off => return Err("the bound was not in force yet"),
        Standing::Suspended { .. } => return Err("the bound was suspended at the old primary"),
    }
    if promise.members != [store.node()] {
        return Err("the bound counts on other standbys than this one alone");
    }
    Ok(CertifiedBound {
        bytes: bound.bytes,
        commits: bound.commits,
        span_ms: bound.time.map(as_ms),
        lease_ms: as_ms(bound.lease),
        record: newest.mark.lsn,
    })
}

/// After how long a silence no primary answers under this bound any more.
#[must_use]
pub fn fence_of(bound: &CertifiedBound) -> Duration {
    fenced_after(Duration::from_millis(bound.lease_ms), CLOCK_RATE_ERROR_PPM)
}

fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
