//! A profile store: what belongs together is read and written by transactions, from many threads.
//!
//! ```text
//! cargo run -p outlast-engine --example profile_store            # in memory
//! cargo run -p outlast-engine --example profile_store -- DIR     # in a directory
//! ```
//!
//! Three rules hold whatever races with what: a handle belongs to one user, a profile has at most
//! [`VIEWERS_MAX`] viewers, and whoever edits a text edits the one that was shown to them.

use std::path::Path;

use outlast_engine::{
    CommitError, CommitOptions, Compared, Config, EpochReason, ErrorKind, Expected, InitOptions,
    Keyspace, Store, TransactOptions,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Users who may see one profile.
const VIEWERS_MAX: usize = 3;

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
    let profiles = Profiles::new(store)?;

    // Eight ask for one handle at once: one gets it.
    let users: Vec<String> = (0..8).map(|number| format!("user {number}")).collect();
    let taken = race(&users, |user| profiles.register(user, "sailor"))?;
    println!("{taken} of {} users got the handle", users.len());

    // All want to see one profile: there is room for three.
    profiles.register("mina", "mina")?;
    let let_in = race(&users, |user| profiles.let_in("mina", user))?;
    println!("{let_in} of {} may see mina's profile", users.len());

    // Two edit what both were shown: the second is told what is there now.
    let shown = profiles.text("mina")?;
    println!(
        "jun's edit: {:?}",
        profiles.edit("mina", shown, "likes rain")?
    );
    println!(
        "ara's edit: {:?}",
        profiles.edit("mina", shown, "likes snow")?
    );
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
    store.begin_epoch(reason, "")?;
    Ok(store)
}

/// Lets every user do it at once. Answers for how many it was done.
fn race(users: &[String], act: impl Fn(&str) -> Outcome<bool> + Sync) -> Outcome<usize> {
    std::thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> = users
            .iter()
            .map(|user| scope.spawn(move || act(user)))
            .collect();
        let mut done = 0;
        for thread in threads {
            done += usize::from(thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok(done)
    })
}

/// Users by handle, texts by user, and who may see whose.
struct Profiles {
    store: Store,
    handles: Keyspace,
    texts: Keyspace,
    viewers: Keyspace,
}

impl Profiles {
    fn new(store: &Store) -> Outcome<Self> {
        Ok(Self {
            handles: store.keyspace("handles")?,
            texts: store.keyspace("texts")?,
            viewers: store.keyspace("viewers")?,
            store: store.clone(),
        })
    }

    /// Makes a profile under a handle that nobody has. That nobody has it is read, so it still
    /// holds when the profile is written.
    fn register(&self, user: &str, handle: &str) -> Outcome<bool> {
        let (is_new, _) = self.store.transact(TransactOptions::default(), |tx| {
            let is_new = !tx.contains_key(&self.handles, handle)?;
            if is_new {
                tx.put(&self.handles, handle, user)?;
                tx.put(&self.texts, user, "")?;
            }
            Ok::<_, CommitError>(is_new)
        })?;
        Ok(is_new)
    }

    /// Lets `viewer` see a profile, unless it has enough viewers: as many as are counted here are
    /// there when this one is added.
    fn let_in(&self, user: &str, viewer: &str) -> Outcome<bool> {
        let (let_in, _) = self.store.transact(TransactOptions::default(), |tx| {
            let others = tx.prefix(&self.viewers, format!("{user}/")).keys();
            let let_in = others.take(VIEWERS_MAX).count() < VIEWERS_MAX;
            if let_in {
                tx.put(&self.viewers, format!("{user}/{viewer}"), "")?;
            }
            Ok::<_, CommitError>(let_in)
        })?;
        Ok(let_in)
    }

    /// Names the text that a profile has now.
    fn text(&self, user: &str) -> Outcome<outlast_engine::Lsn> {
        let entry = self.store.get_entry(&self.texts, user)?;
        Ok(entry.ok_or("no such profile")?.lsn)
    }

    /// Replaces a text that was shown. Answers with what is there instead, if it was replaced
    /// since.
    fn edit(
        &self,
        user: &str,
        shown: outlast_engine::Lsn,
        text: &str,
    ) -> Outcome<Result<(), String>> {
        let (expected, new) = (Expected::Lsn(shown), Some(text.as_bytes()));
        let options = CommitOptions::default();
        let compared = self
            .store
            .compare_and_set(&self.texts, user, expected, new, options)?;
        Ok(match compared {
            Compared::Differs(Some(now)) => Err(String::from_utf8(now.value.to_vec())?),
            Compared::Differs(None) => Err("the profile is gone".to_owned()),
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_runs() {
        super::run(&outlast_engine::Store::open_in_memory().unwrap()).unwrap();
    }
}
