//! The power goes at every change of a disk, with every class of what was not synced: all of it
//! lost, all of it kept, each piece lost or kept alone, each beginning of it kept, and random
//! subsets. Each image must open, hold all that was answered for and nothing that was never asked
//! for, and go on; and so must the images of a second crash, during that recovery.
//!
//! The method is that of the crash-consistency testers ALICE and CrashMonkey, at the engine's file
//! seam. `OUTLAST_CRASH_SEEDS=N` goes through N lives instead of the few of a normal run.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod calls;
mod disk;
mod workload;

use std::sync::Arc;

use outlast_engine::{
    Batch, CommitOptions, EpochReason, ErrorKind, RestoreOptions, Store, restore_on,
};

use self::disk::{Disk, Unit};
use self::workload::{Dice, Ledger, Node, StillClock, contents, life, live, open};

/// More pieces than this are sampled for the classes of one piece and of beginnings.
const SINGLES_MAX: usize = 24;
const RANDOM_SUBSETS: u64 = 12;
/// Every so many images a second crash is tried at each change of the recovery.
const NESTED_EVERY: u64 = 97;
/// Every so many images the recovered store writes on and is opened again.
const WRITE_ON_EVERY: u64 = 11;

#[derive(Default, Debug)]
struct Counts {
    moments: u64,
    images: u64,
    nested_images: u64,
}

/// Which units an image keeps.
#[derive(Clone, Copy, Debug)]
enum Class {
    None,
    All,
    Only(usize),
    AllBut(usize),
    Before(usize),
    Random(u64),
}

impl Class {
    fn keeps(self, unit: usize) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Only(one) => unit == one,
            Self::AllBut(one) => unit != one,
            Self::Before(end) => unit < end,
            Self::Random(seed) => {
                let mut dice = Dice(seed ^ ((unit as u64) << 32));
                dice.below(7);
                dice.below(2) == 0
            }
        }
    }

    /// All classes for so many units.
    fn all(units: &[Unit], seed: u64) -> Vec<Self> {
        let count = units.len();
        let mut classes = vec![Self::None];
        if count == 0 {
            return classes;
        }
        classes.push(Self::All);
        if count == 1 {
            return classes;
        }
        let step = count.div_ceil(SINGLES_MAX);
        for one in (0..count).step_by(step) {
            classes.extend([Self::Only(one), Self::AllBut(one), Self::Before(one + 1)]);
        }
        let random = RANDOM_SUBSETS.min(1 << count.min(20));
        classes.extend((0..random).map(|number| Self::Random(seed + number)));
        classes
    }
}

/// What must be true of the image of one moment.
struct Expected<'a> {
    ledger: &'a Ledger,
    must: u64,
    may: u64,
    promotes: bool,
    clock: &'a Arc<StillClock>,
}

impl Expected<'_> {
    /// Opens an image, lets it go on, and checks what it holds. Answers with its last commit.
    fn check(&self, image: &Disk, write_on: bool) -> Result<u64, String> {
        let said = |what: &str| {
            let what = what.to_owned();
            move |error: outlast_engine::Error| format!("{what}: {error}")
        };
        let store = match open(image, self.clock) {
            Err(error) if error.kind() == ErrorKind::NotInitialised && self.must == 0 => {
                return Ok(0);
            }
            other => other.map_err(said("it does not open"))?,
        };
        if let Some(lost) = store.recovered().acked_tail_lost {
            return Err(format!("it says that it lost its tail up to {lost}"));
        }
        let seen = store.positions().visible.commit;
        self.compare(&store, seen)?;
        let reason = if self.promotes {
            EpochReason::Promotion
        } else {
            EpochReason::Restart
        };
        store
            .begin_epoch(reason, "after a crash")
            .map_err(said("it does not go on"))?;
        let found = store.positions().durable.commit;
        if found < self.must || found > self.may {
            let (must, may) = (self.must, self.may);
            return Err(format!("it holds {found} commits, not {must} to {may}"));
        }
        self.compare(&store, found)?;
        if !write_on {
            return Ok(found);
        }
        let keyspace = store.keyspace("after").map_err(said("a keyspace"))?;
        let mut batch = Batch::new();
        batch.put(&keyspace, "k", "v").map_err(said("a put"))?;
        let receipt = store
            .commit(batch, CommitOptions::default())
            .map_err(|error| format!("it takes no commit: {error}"))?;
        drop((keyspace, store));
        let again = open(image, self.clock).map_err(said("it does not open again"))?;
        again
            .begin_epoch(EpochReason::Restart, "")
            .map_err(said("it does not go on again"))?;
        let keyspace = again.find_keyspace("after").map_err(said("a keyspace"))?;
        let value = again.get(&keyspace, "k").map_err(said("a get"))?;
        if value.as_deref() != Some(b"v") || again.positions().durable.commit != receipt.commit {
            return Err("what it took after the crash is gone".to_owned());
        }
        Ok(found)
    }

    /// What readers see is the state after `commit` commits, exactly.
    fn compare(&self, store: &Store, commit: u64) -> Result<(), String> {
        let found = contents(store).map_err(|error| format!("a read: {error}"))?;
        let state = &self.ledger.states[usize::try_from(commit).unwrap()];
        if found == live(state, store) {
            Ok(())
        } else {
            Err(format!("its state is not that of commit {commit}"))
        }
    }
}

/// Every image of every moment of a node's life.
fn every_image(name: &str, seed: u64, node: &Node, counts: &mut Counts) {
    let promotes = name == "standby";
    let mut moments = node.disk.moments();
    loop {
        let at = moments.at();
        let expected = Expected {
            ledger: &node.ledger,
            must: node.ledger.must(at),
            may: node.ledger.may(at),
            promotes,
            clock: &node.clock,
        };
        counts.moments += 1;
        let units = moments.units();
        for class in Class::all(&units, at as u64) {
            let image = moments.image(&units, |unit| class.keeps(unit));
            counts.images += 1;
            let nested = counts.images.is_multiple_of(NESTED_EVERY);
            let write_on = !nested && counts.images.is_multiple_of(WRITE_ON_EVERY);
            let fail = |what: String| -> ! {
                panic!(
                    "life {seed}, {name}: the power went after change {at} and the disk kept \
                     {class:?} of {units:?}: {what}"
                )
            };
            let found = expected
                .check(&image, write_on)
                .unwrap_or_else(|what| fail(what));
            if nested {
                // The changes of the recovery itself are on the image's own list now.
                let nested = every_nested_image(&expected, &image, found);
                counts.nested_images += nested.unwrap_or_else(|what| fail(what));
            }
        }
        if !moments.step() {
            return;
        }
    }
}

/// A second crash, at every change that recovering from the first one made.
fn every_nested_image(expected: &Expected<'_>, disk: &Disk, found: u64) -> Result<u64, String> {
    let expected = Expected {
        // What recovery found and wrote behind may be there, and so may the commit after it.
        may: found.max(expected.may),
        ..*expected
    };
    let mut images = 0;
    let mut moments = disk.moments();
    loop {
        let units = moments.units();
        let count = units.len();
        let mut classes = vec![Class::None, Class::All];
        classes.extend((0..4).map(Class::Random));
        classes.extend(
            (0..count)
                .step_by(count.div_ceil(4).max(1))
                .map(Class::AllBut),
        );
        for class in classes {
            let image = moments.image(&units, |unit| class.keeps(unit));
            let at = moments.at();
            expected
                .check(&image, false)
                .map_err(|what| format!("a second crash after {at} with {class:?}: {what}"))?;
            images += 1;
        }
        if !moments.step() {
            return Ok(images);
        }
    }
}

#[test]
fn every_crash_image_recovers() {
    let lives = std::env::var("OUTLAST_CRASH_SEEDS");
    let lives = lives.map_or(2, |count| count.parse().expect("a number of lives"));
    let mut counts = Counts::default();
    for seed in 1..=lives {
        let (primary, standby) = life(seed, 160);
        every_image("primary", seed, &primary, &mut counts);
        every_image("standby", seed, &standby, &mut counts);
    }
    eprintln!("{lives} lives: {counts:?}, 0 violations");
    assert!(counts.images > 2_000 * lives, "{counts:?}");
}

/// The power goes while a backup is made: what is there is refused, or is all of it.
#[test]
fn every_crash_image_of_a_backup_is_refused_or_whole() {
    let (mut images, mut whole) = (0_u64, 0_u64);
    for seed in 1..=2 {
        let (primary, _) = life(seed, 80);
        let state = primary.ledger.states.last().unwrap();
        let backup = Disk::default();
        primary.store().checkpoint_on(&backup).unwrap();
        let mut moments = backup.moments();
        loop {
            let units = moments.units();
            let mut held = false;
            for class in Class::all(&units, moments.at() as u64) {
                let image = moments.image(&units, |unit| class.keeps(unit));
                let disk = Disk::default();
                images += 1;
                let made = restore_on(&image, &disk, &RestoreOptions::new("again"));
                held = made.is_ok();
                if made.is_err() {
                    continue;
                }
                whole += 1;
                let store = open(&disk, &primary.clock).unwrap();
                store.begin_epoch(EpochReason::Restart, "").unwrap();
                let at = moments.at();
                assert_eq!(
                    contents(&store).unwrap(),
                    live(state, &store),
                    "life {seed}, after change {at} with {class:?}"
                );
            }
            if !moments.step() {
                assert!(held, "a backup that was made is refused");
                break;
            }
        }
    }
    eprintln!("{images} images of backups, {whole} whole");
    assert!(whole >= 2 && whole < images, "{whole} of {images}");
}
