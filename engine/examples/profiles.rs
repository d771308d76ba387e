//! A small service that embeds the engine: profiles that only their chosen viewers may see.
//!
//! ```text
//! cargo run -p outlast-engine --example profiles            # in memory
//! cargo run -p outlast-engine --example profiles -- DIR     # in a directory, and again after that
//! ```
//!
//! A profile, who may see it and its version are written by one batch and read from one snapshot,
//! so that nobody ever sees a new profile by an old list of viewers. A second thread follows the
//! change feed, as a cache or a search index would.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use outlast_engine::{
    Batch, CommitOptions, Config, EpochReason, ErrorKind, InitOptions, Keyspace, Lsn, Op, Receipt,
    Store,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let store = match std::env::args().nth(1) {
        Some(dir) => open_or_make(Path::new(&dir))?,
        None => Store::open_in_memory()?,
    };
    run(&store)?;
    store.close()?;
    Ok(())
}

fn run(store: &Store) -> Outcome<()> {
    let profiles = Profiles::new(store.clone())?;
    let start = store.positions().visible.lsn;
    let follower = std::thread::spawn({
        let store = store.clone();
        move || follow(&store, start, 3).map_err(|error| error.to_string())
    });

    profiles.publish("mina", "sailing in July", &["jun", "ara"])?;
    println!("jun sees {:?}", profiles.view("mina", "jun")?);
    profiles.publish("mina", "a secret", &["ara"])?;
    println!("jun sees {:?}", profiles.view("mina", "jun")?);
    println!("ara sees {:?}", profiles.view("mina", "ara")?);

    // A reader elsewhere waits for the receipt, so that it never shows what came before it.
    let receipt = profiles.withdraw("mina")?;
    store.wait_applied(&receipt, Duration::from_secs(5))?;
    println!("ara sees {:?}", profiles.view("mina", "ara")?);

    let (puts, deletes) = follower.join().map_err(|_| "the follower panicked")??;
    println!("the change feed gave {puts} puts and {deletes} deletes");
    Ok(())
}

/// Opens the store in `dir` and makes it first if there is none: only this call ever does.
fn open_or_make(dir: &Path) -> Outcome<Store> {
    let (store, reason) = match Store::open(dir, Config::default()) {
        Err(error) if error.kind() == ErrorKind::NotInitialised => {
            Store::init(dir, &InitOptions::new("profiles"))?;
            (Store::open(dir, Config::default())?, EpochReason::Init)
        }
        opened => (opened?, EpochReason::Restart),
    };
    // A single node is its own authority: it writes as soon as it is opened.
    store.begin_epoch(reason, "")?;
    Ok(store)
}

/// Changes of one profile read before they write, so a service lets one caller at a time make them.
struct Profiles {
    store: Store,
    texts: Keyspace,
    viewers: Keyspace,
    versions: Keyspace,
}

impl Profiles {
    fn new(store: Store) -> Outcome<Self> {
        Ok(Self {
            texts: store.keyspace("texts")?,
            viewers: store.keyspace("viewers")?,
            versions: store.keyspace("versions")?,
            store,
        })
    }

    /// Replaces a profile together with the list of those who may see it.
    fn publish(&self, user: &str, text: &str, viewers: &[&str]) -> Outcome<Receipt> {
        let mut batch = self.without_viewers(user)?;
        batch.put(&self.texts, user, text)?;
        for viewer in viewers {
            batch.put(&self.viewers, format!("{user}/{viewer}"), "")?;
        }
        Ok(self.store.commit(batch, CommitOptions::default())?)
    }

    /// Shows a profile to nobody any more.
    fn withdraw(&self, user: &str) -> Outcome<Receipt> {
        let mut batch = self.without_viewers(user)?;
        batch.delete(&self.texts, user)?;
        Ok(self.store.commit(batch, CommitOptions::default())?)
    }

    /// What `viewer` may see of a profile, with its version.
    fn view(&self, user: &str, viewer: &str) -> Outcome<Option<(u64, String)>> {
        let snapshot = self.store.snapshot();
        if !snapshot.contains_key(&self.viewers, format!("{user}/{viewer}"))? {
            return Ok(None);
        }
        let [text, version] = [&self.texts, &self.versions].map(|ks| snapshot.get(ks, user));
        let (Some(text), Some(version)) = (text?, version?) else {
            return Err("a profile without a text or a version: a batch was seen in part".into());
        };
        let version = u64::from_le_bytes(version[..].try_into()?);
        Ok(Some((version, String::from_utf8(text.to_vec())?)))
    }

    /// A batch that raises the version and takes all viewers away.
    fn without_viewers(&self, user: &str) -> Outcome<Batch> {
        let snapshot = self.store.snapshot();
        let version = match snapshot.get(&self.versions, user)? {
            Some(version) => u64::from_le_bytes(version[..].try_into()?) + 1,
            None => 1,
        };
        let mut batch = Batch::new();
        batch.put(&self.versions, user, version.to_le_bytes())?;
        for viewer in snapshot.prefix(&self.viewers, format!("{user}/")).keys() {
            batch.delete(&self.viewers, viewer?)?;
        }
        Ok(batch)
    }
}

/// Reads `commits` commits from the change feed. Counts puts and deletes.
fn follow(store: &Store, from: Lsn, commits: usize) -> Outcome<(u32, u32)> {
    let mut tail = store.tail(from)?;
    let (mut puts, mut deletes) = (0, 0);
    for _ in 0..commits {
        let next = tail.next_timeout(Duration::from_secs(5))?;
        for change in next.ok_or("no commit came")?.changes {
            match change.op {
                Op::Put => puts += 1,
                Op::Delete => deletes += 1,
                other => return Err(format!("{other:?} is news to this service").into()),
            }
        }
    }
    Ok((puts, deletes))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_runs() {
        super::run(&outlast_engine::Store::open_in_memory().unwrap()).unwrap();
    }
}
