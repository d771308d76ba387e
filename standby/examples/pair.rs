//! A service that runs as a pair, with both nodes in one process as its own tests would have them.
//!
//! ```text
//! cargo run -p outlast-standby --example pair
//! ```
//!
//! A profile and who may see it are written by one batch at level applied, so that a reader of the
//! standby sees both or neither. Then the primary is gone, the standby is promoted, and the service
//! goes on where it was.

use std::error::Error;
use std::time::Duration;

use outlast_standby::Node;
use outlast_standby::certificate::{AcceptedLoss, Outcome, PromoteOptions};
use outlast_standby::engine::{Batch, CommitOptions, Level, Receipt};
use outlast_standby::status::Role;
use outlast_standby::testing::LoopbackPair;

type Done<T> = Result<T, Box<dyn Error>>;

fn main() -> Done<()> {
    let place = tempfile::tempdir()?;
    let pair = LoopbackPair::make(place.path())?;
    let primary = Profiles(pair.start_primary()?);
    let standby = Profiles(pair.start_standby()?);
    primary.publish("mina", "sailing in July", "jun", Level::Applied)?;
    println!("on the standby jun sees {:?}", standby.view("mina", "jun")?);

    // A service watches what its node is, and takes up its work when that may be done here.
    let mut roles = standby.0.roles();
    assert_eq!(roles.borrow_and_update().role, Role::Standby);
    primary.0.stop()?;
    let certificate = standby.0.promote(&PromoteOptions {
        primary_is_down: true,
        // This primary was closed, not cut off: it is known to be down, however lately it answered.
        primary_is_sick: true,
        accept_loss: Some(AcceptedLoss::Unbounded),
        reason: "the example ends its primary".to_owned(),
        ..PromoteOptions::default()
    })?;
    assert_eq!(certificate.outcome, Outcome::Promoted);
    assert!(roles.has_changed()?);
    let now = roles.borrow_and_update().clone();
    assert_eq!(now.role, Role::Primary);
    println!(
        "promoted in {} ms, certified in {:?}",
        certificate.took_ms, now.certificate
    );

    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let store = runtime.block_on(standby.0.until_writable()).clone();
    assert!(store.find_keyspace("profiles").is_ok());
    let promoted = standby;
    promoted.publish("mina", "a secret", "ara", Level::Local)?;
    println!("jun sees {:?} now", promoted.view("mina", "jun")?);
    println!("ara sees {:?} now", promoted.view("mina", "ara")?);
    assert_eq!(promoted.view("mina", "jun")?, None);
    assert_eq!(promoted.view("mina", "ara")?.as_deref(), Some("a secret"));
    promoted.0.stop()?;
    Ok(())
}

/// The service: profiles, each with the one viewer that may see it.
struct Profiles(Node);

impl Profiles {
    fn publish(&self, who: &str, text: &str, viewer: &str, level: Level) -> Done<Receipt> {
        let store = self.0.store();
        let (profiles, viewers) = (store.keyspace("profiles")?, store.keyspace("viewers")?);
        let mut batch = Batch::new();
        batch.put(&profiles, who, text)?;
        batch.put(&viewers, who, viewer)?;
        let deadline = Some(Duration::from_secs(30));
        Ok(store.commit(batch, CommitOptions { level, deadline })?)
    }

    fn view(&self, who: &str, viewer: &str) -> Done<Option<String>> {
        let store = self.0.store();
        // Found and not made, since a standby makes none; and both read at one position.
        let profiles = store.find_keyspace("profiles")?;
        let viewers = store.find_keyspace("viewers")?;
        let snapshot = store.snapshot();
        let may = snapshot.get(&viewers, who)?;
        if may.as_deref() != Some(viewer.as_bytes()) {
            return Ok(None);
        }
        let text = snapshot.get(&profiles, who)?;
        Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }
}

#[cfg(test)]
#[test]
fn a_service_is_promoted_in_its_own_process_and_goes_on_writing() -> Done<()> {
    main()
}
