//! Who is told when this node's role changes: whoever watches, and the operator's command.

use std::sync::Weak;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Inner;
use crate::hook::{Hook, RoleNow, certificate_of};
use crate::status::Role;

/// How often is looked for a change that nobody announced, as a disk that fails.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The role as it was last announced.
pub(super) struct Announced {
    now: watch::Sender<RoleNow>,
    hook: Option<Hook>,
    /// Held while it is looked at and announced, so that no older role follows a newer one.
    announcing: Mutex<()>,
}

impl Announced {
    pub(super) fn new(hook: Option<Hook>) -> Self {
        let unknown = RoleNow {
            role: Role::WaitingForPeer,
            epoch: None,
            certificate: None,
        };
        Self {
            now: watch::Sender::new(unknown),
            hook,
            announcing: Mutex::new(()),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<RoleNow> {
        self.now.subscribe()
    }

    pub(super) fn hook(&self) -> Option<&Hook> {
        self.hook.as_ref()
    }
}

impl Inner {
    /// Announces the role that the process begins with.
    pub(super) fn announce_first_role(&self) {
        let now = self.role_now();
        self.announced.now.send_replace(now.clone());
        if let Some(hook) = &self.announced.hook {
            hook.tell(now);
        }
    }

    /// Announces the role, if it is another one than was last announced. Waits for nobody.
    pub(super) fn announce_role(&self) {
        let _announcing = self.announced.announcing.lock();
        if self.announced.now.borrow().role == self.role() {
            return;
        }
        let now = self.role_now();
        tracing::info!(role = now.role.name(), "the role of this node has changed");
        self.announced.now.send_replace(now.clone());
        if let Some(hook) = &self.announced.hook {
            hook.tell(now);
        }
    }

    fn role_now(&self) -> RoleNow {
        let history = self.store.history();
        RoleNow {
            role: self.role(),
            epoch: history.last().cloned(),
            certificate: certificate_of(&self.dir, history.epochs()),
        }
    }
}

/// Looks for changes that nobody announced, until the node is gone.
pub(super) async fn watch_role(inner: Weak<Inner>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        // Who changes it now announces it when all is done that belongs to it.
        let changing = inner.changing_role.try_lock();
        if changing.is_some() {
            inner.announce_role();
        }
    }
}
