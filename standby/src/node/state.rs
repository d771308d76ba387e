//! What a node says of itself.

use std::sync::Weak;
use std::time::{Duration, Instant};

use outlast_proto::ReceiverPhase;
use outlast_shipper::LinkHandle;
use outlast_shipper::drive::boot_time;

use super::Inner;
use super::protect::policy_name;
use crate::follow::{self, Follower};
use crate::hook::{Hook, HookRun};
use crate::roles;
use crate::status::{Lag, PeerStatus, ProtectionState, ProtectionStatus, Role, Status};

/// How often the lag is sampled.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// What is known of the other node.
#[derive(Default)]
pub(super) struct PeerView {
    pub(super) link: Option<LinkHandle>,
    pub(super) attached: bool,
    pub(super) contact: Option<outlast_proto::MonoTime>,
    pub(super) sessions: u64,
    pub(super) last_close: Option<String>,
    pub(super) refusals: u64,
    /// What this primary remembers of its standby's acknowledgements in its own epoch.
    pub(super) remembered: Option<outlast_proto::AckMark>,
}

impl Inner {
    pub(super) fn role(&self) -> Role {
        let follower = self.follower.lock().clone();
        match roles::role(&self.store, follower.is_some()) {
            Role::Standby => match follower.and_then(|follower| self.not_following(&follower)) {
                Some(reason) => Role::NotFollowing { reason },
                None => Role::Standby,
            },
            role => role,
        }
    }

    /// Why a standby follows nobody any more, if so.
    pub(super) fn not_following(&self, follower: &Follower) -> Option<String> {
        follower.failure().or_else(|| {
            follower.has_ended().then(|| {
                let said = self.panics.lock().get(follow::TASK).cloned();
                let said = said.unwrap_or_else(|| "the log of the process says why".to_owned());
                format!("the task that follows has ended: {said}")
            })
        })
    }

    pub(crate) fn status(&self) -> Status {
        let role = self.role();
        let positions = self.store.positions();
        let peer = self.peer_status();
        let lag = self.lag(&role);
        let mut warnings = Vec::new();
        if self.config.peer.is_some() && peer.is_none() {
            warnings.push("the peer's key is not trusted yet".to_owned());
        }
        if let Some(peer) = &peer
            && !peer.connected
        {
            warnings.push(format!("no session with {}", peer.name));
        }
        let no_room = self.follower.lock().as_ref().and_then(|it| it.no_room());
        if let Some(why) = no_room {
            warnings.push(format!(
                "the disk is full, so nothing is received ({why}): this node goes on by itself once \
                 there is space"
            ));
        }
        if matches!(role, Role::Primary | Role::Standby) && !self.store.holds_reserve() {
            warnings.push(
                "no space is held in reserve yet: on a full disk a promotion could fail".to_owned(),
            );
        }
        for (task, said) in &*self.panics.lock() {
            warnings.push(format!(
                "the task `{task}` has panicked, a bug ({said}): start this process again"
            ));
        }
        let unprotected = self.unprotected();
        let protection = self.protection_status(&role, unprotected.as_ref());
        let policy = policy_name(&self.store, &self.config);
        warnings.extend(protection.as_ref().and_then(|it| warning(it, &policy)));
        let recovered = self.store.recovered();
        if recovered.torn_bytes > 0 {
            let bytes = recovered.torn_bytes;
            warnings.push(format!(
                "a torn tail of {bytes} bytes was cut and kept aside at start"
            ));
        }
        if let Some(lsn) = recovered.acked_tail_lost {
            warnings.push(format!(
                "ACKED TAIL LOST up to {lsn}: it must be sent again"
            ));
        }
        let role_change = self.announced.hook().and_then(Hook::last);
        warnings.extend(role_change.as_ref().and_then(HookRun::warning));
        let held_log_time = self.store.held_log_time();
        if let Some(held) = held_log_time {
            let ahead = Duration::from_millis(held.wall_ms.saturating_sub(held.log_ms));
            let ahead = humantime_serde::re::humantime::format_duration(Duration::from_secs(
                ahead.as_secs(),
            ));
            warnings.push(format!(
                "log time stands still: this node's clock is {ahead} ahead of the log, so no put \
                 expires until somebody has looked at it"
            ));
        }
        let clock = held_log_time.map(|_| "if this host's clock is right: outlast confirm-clock");
        let stages = self.stages(&role);
        let readiness = self.readiness(&role, peer.as_ref(), protection.as_ref(), &policy);
        let next = self.next_command(&role, peer.as_ref());
        Status {
            schema: 1,
            next: next.or_else(|| clock.map(str::to_owned)),
            held_log_time,
            role_change,
            cluster: self.store.cluster(),
            node: self.store.node(),
            node_name: self.store.node_name(),
            policy,
            epoch: self.store.history().last().cloned(),
            listen: self.listening.lock().map(|address| address.to_string()),
            http: self.http.get().map(ToString::to_string),
            pid: Some(std::process::id()),
            role,
            positions,
            peer,
            lag,
            stages,
            readiness,
            unprotected,
            protection,
            recovered,
            warnings,
        }
    }

    fn peer_status(&self) -> Option<PeerStatus> {
        let peer = self.peer()?;
        let view = self.peer_view.lock();
        let follower = self.follower.lock().clone();
        let following = follower.as_ref().map(|follower| follower.status());
        let told = following.as_ref().and_then(|status| status.told);
        let contact = if following.is_some() {
            told.map(|told| told.at)
        } else {
            view.contact
        };
        let contact_age = contact.map(|at| boot_time().since(at));
        let connected = match &following {
            Some(status) => status.phase == ReceiverPhase::Following,
            None => view.attached,
        };
        let stats = view
            .link
            .as_ref()
            .filter(|_| connected)
            .map(LinkHandle::stats);
        Some(PeerStatus {
            node: peer.node,
            name: peer.name.clone(),
            address: peer.address.map(|address| address.to_string()),
            connected,
            contact_age_ms: contact_age.map(as_ms),
            rtt_us: stats.map(|stats| u64::try_from(stats.rtt.as_micros()).unwrap_or(u64::MAX)),
            primary_appended: told.map(|told| told.view.appended),
            sessions: view.sessions,
            last_close: view.last_close.clone(),
        })
    }

    fn lag(&self, role: &Role) -> Option<Lag> {
        let positions = self.store.positions();
        let (ahead, behind, ms) = match role {
            Role::Primary if self.config.peer.is_some() => {
                let now = boot_time().as_duration();
                let ms = as_ms(self.lag.lock().lag(now));
                (positions.appended, positions.replicated, ms)
            }
            Role::Standby | Role::NotFollowing { .. } => {
                let told = self.follower.lock().as_ref()?.status().told?;
                (told.view.appended, positions.durable, 0)
            }
            _ => return None,
        };
        Some(Lag {
            bytes: ahead.lsn.bytes_since(behind.lsn),
            commits: ahead.commit.saturating_sub(behind.commit),
            ms,
        })
    }

    fn next_command(&self, role: &Role, peer: Option<&PeerStatus>) -> Option<String> {
        match role {
            Role::Primary | Role::Standby if self.config.peer.is_some() && peer.is_none() => Some(
                "outlast pin trust '…' (the line that `outlast pin show` prints on the peer)"
                    .to_owned(),
            ),
            Role::Primary => None,
            Role::WaitingForPeer => Some(
                "start the standby; if it is gone for good: outlast resume-alone --reason '…'"
                    .to_owned(),
            ),
            Role::Standby if peer.is_some_and(|peer| !peer.connected) => {
                Some("if the primary is lost: outlast promote --dry-run".to_owned())
            }
            Role::Standby => None,
            Role::NotFollowing { .. } => Some(
                "mend what failed, then start its process again; if the primary is lost: outlast \
                 promote --dry-run"
                    .to_owned(),
            ),
            Role::Fenced { .. } => {
                Some("send writes to the new primary; this node stays readable".to_owned())
            }
            Role::Conflict { .. } => Some(
                "read both nodes and decide which history stays; there, with its epoch: outlast \
                 resolve --keep EPOCH --dry-run --reason '…'"
                    .to_owned(),
            ),
            Role::Poisoned { .. } => Some("check the disk, then start the node again".to_owned()),
        }
    }
}

/// What an operator should see at once about the promise.
fn warning(protection: &ProtectionStatus, policy: &str) -> Option<String> {
    let secs = protection.ms.unwrap_or_default() / 1000;
    match protection.state {
        ProtectionState::Off if policy != "async" => Some(format!(
            "PROTECTION OFF: nothing limits what can be lost until the standby has nearly all; \
             then the policy {policy} comes into force by itself"
        )),
        ProtectionState::Suspended => Some(format!(
            "PROTECTION SUSPENDED for {secs} s more: nothing limits what can be lost"
        )),
        ProtectionState::Stalled => {
            let why = protection.why.as_deref().unwrap_or_default();
            Some(format!("STALLED for {secs} s: {why}"))
        }
        _ => None,
    }
}

/// Samples the lag until the node is gone.
pub(super) async fn lag_sampler(inner: Weak<Inner>) {
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let positions = inner.store.positions();
        let now = boot_time().as_duration();
        inner.gatekeeper.sample();
        inner
            .lag
            .lock()
            .sample(now, positions.appended.lsn, positions.replicated.lsn);
    }
}

pub(super) fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long something took, in milliseconds.
pub(super) fn ms_since(start: Instant) -> u64 {
    as_ms(start.elapsed())
}
