//! Runs against an ordered map of versions, and against every kind of damage.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fs::MemFs;
use crate::index::source::Entry;

/// Every version in the order of a run.
type Model = BTreeMap<(u32, Vec<u8>, Reverse<u64>), Version>;
type Row = (u32, Vec<u8>, Version);

const NAME: &str = "run";
const KEYSPACES: [u32; 4] = [1, 2, 256, u32::MAX];

/// Keys that begin alike, that are others' beginnings, that are empty, long, zeros or 0xff.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0), Just(b'a'), Just(b'b'), Just(0xfe), Just(0xff)];
    let repeated = (prop_oneof![Just(0u8), Just(b'x'), Just(0xff)], 0usize..40)
        .prop_map(|(byte, len)| vec![byte; len]);
    let numbered = (0u32..5000).prop_map(|n| format!("profile/{n:08}/viewers").into_bytes());
    let long = (0u8..6, 1900usize..=KEY_LEN_MAX).prop_map(|(last, len)| {
        let mut key = vec![b'l'; len];
        key[len - 1] = last;
        key
    });
    prop_oneof![
        6 => vec(byte, 0..4),
        2 => repeated,
        12 => numbered,
        1 => long,
        2 => vec(any::<u8>(), 0..24),
    ]
}

/// Keys with their versions: mostly one, sometimes so many that they fill blocks.
fn model() -> impl Strategy<Value = Model> {
    let count = prop_oneof![12 => 1usize..4, 2 => 4usize..40, 1 => 300usize..900];
    let keyspace = proptest::sample::select(&KEYSPACES[..]);
    let row = (keyspace, key(), count, any::<u32>());
    vec(row, 1..300).prop_map(|rows| {
        let mut model = Model::new();
        for (number, (keyspace, key, count, noise)) in rows.into_iter().enumerate() {
            for version in 0..count as u64 {
                let wide = if noise % 7 == 0 {
                    u64::from(noise) << 30
                } else {
                    0
                };
                let lsn = 1 + wide + number as u64 * 10 + version * 10_000;
                let len = if noise % 5 == 0 {
                    noise
                } else {
                    100 + noise % 200
                };
                let op = if (u64::from(noise >> 8) + version) % 3 == 0 {
                    Op::Delete
                } else {
                    Op::Put
                };
                let expires_ms = match (op, noise % 11) {
                    (Op::Put, 0) => 1 + version,
                    (Op::Put, 1) => u64::from(noise) << 20,
                    (Op::Put, 2) if noise % 13 == 0 => u64::MAX,
                    _ => 0,
                };
                let version = Version {
                    lsn: Lsn(lsn),
                    len,
                    op,
                    expires_ms,
                };
                model.insert((keyspace, key.clone(), Reverse(lsn)), version);
            }
        }
        model
    })
}

/// Places to look at: keys that are there, at positions about their versions, and others.
fn places(model: &Model) -> Vec<(u32, Vec<u8>, u64)> {
    let mut places = Vec::new();
    let step = model.len() / 200 + 1;
    for (keyspace, key, Reverse(lsn)) in model.keys().step_by(step) {
        for at in [0, *lsn, *lsn + 1, *lsn + 5, u64::MAX] {
            places.push((*keyspace, key.clone(), at));
        }
        let mut above = key.clone();
        above.push(0);
        let mut below = key.clone();
        if let Some(last) = below.pop() {
            below.extend((last > 0).then(|| last - 1));
        }
        for key in [above, below] {
            places.push((*keyspace, key.clone(), u64::MAX));
            places.push((keyspace.wrapping_add(1), key, *lsn));
        }
    }
    places
}

fn write(fs: &MemFs, model: &Model) -> RunMeta {
    let mut writer = RunWriter::create(fs, NAME).unwrap();
    for ((keyspace, key, _), version) in model {
        writer.push(*keyspace, key, *version).unwrap();
    }
    let announced = writer.len_bytes();
    let meta = writer.finish().unwrap();
    assert!(
        announced.abs_diff(meta.len_bytes) <= 4 * 4096,
        "{announced} {meta:?}"
    );
    meta
}

fn run(model: &Model) -> Run {
    let fs = MemFs::new();
    let meta = write(&fs, model);
    Run::open(&fs, NAME, &meta).unwrap()
}

fn row(entry: Option<Entry<'_>>) -> Option<Row> {
    entry.map(|entry| (entry.keyspace, entry.key.to_vec(), entry.version))
}

fn rows(model: &Model) -> Vec<Row> {
    model.iter().map(model_row).collect()
}

fn model_row(((keyspace, key, _), version): (&(u32, Vec<u8>, Reverse<u64>), &Version)) -> Row {
    (*keyspace, key.clone(), *version)
}

fn forward(run: &Run) -> Result<Vec<Row>> {
    let mut cursor = RunCursor::new(run);
    let mut rows = Vec::new();
    cursor.first()?;
    while let Some(found) = row(cursor.entry()) {
        rows.push(found);
        cursor.next()?;
    }
    Ok(rows)
}

fn backward(run: &Run) -> Result<Vec<Row>> {
    let mut cursor = RunCursor::new(run);
    let mut rows = Vec::new();
    cursor.last()?;
    while let Some(found) = row(cursor.entry()) {
        rows.push(found);
        cursor.prev()?;
    }
    Ok(rows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn a_run_is_the_map_that_it_was_written_from(model in model()) {
        let run = run(&model);
        let all = rows(&model);
        let meta = run.meta();
        prop_assert_eq!(meta.entries, model.len() as u64);
        let key = |row: &Row| RunKey { keyspace: row.0, key: row.1.clone() };
        prop_assert_eq!(&meta.first, &key(&all[0]));
        prop_assert_eq!(&meta.last, &key(&all[all.len() - 1]));
        prop_assert_eq!(Some(meta.lowest), all.iter().map(|row| row.2.lsn).min());
        prop_assert_eq!(Some(meta.highest), all.iter().map(|row| row.2.lsn).max());
        run.verify().unwrap();
        prop_assert_eq!(&forward(&run).unwrap(), &all);
        let mut reversed = backward(&run).unwrap();
        reversed.reverse();
        prop_assert_eq!(&reversed, &all);

        let mut cursor = RunCursor::new(Arc::new(run));
        for (keyspace, key, at) in places(&model) {
            let place = (keyspace, key.clone(), Reverse(at.saturating_sub(1)));
            let below = model.range(place.clone()..).next();
            let found = below.filter(|((k, b, _), _)| at > 0 && (*k, b) == (keyspace, &key));
            let got = cursor.run().get(keyspace, &key, Lsn(at)).unwrap();
            prop_assert_eq!(got, found.map(|(_, version)| *version), "{:?} at {}", key, at);

            cursor.seek(keyspace, &key, Lsn(at)).unwrap();
            prop_assert_eq!(row(cursor.entry()), below.map(model_row));
            cursor.prev().unwrap();
            let before = model.range(..place).next_back().map(model_row);
            if below.is_some() {
                prop_assert_eq!(row(cursor.entry()), before.clone());
            }
            cursor.seek_before(keyspace, &key, Lsn(at)).unwrap();
            prop_assert_eq!(row(cursor.entry()), before.clone());
            cursor.next().unwrap();
            if before.is_some() {
                prop_assert_eq!(row(cursor.entry()), below.map(model_row));
            }
        }
    }

    #[test]
    fn bytes_that_are_none_of_ours_never_panic(
        model in model(),
        noise in vec((any::<prop::sample::Index>(), any::<u8>()), 1..60),
    ) {
        let fs = MemFs::new();
        let mut meta = write(&fs, &model);
        let mut bytes = crate::fs::read_all(&fs, NAME).unwrap();
        let body = bytes.len() - BLOCK_LEN;
        noise.iter().for_each(|(at, byte)| bytes[at.index(body)] = *byte);
        // With checksums that hold, so that the decoders see it.
        let footer = Footer::decode(&bytes[body..], NAME).unwrap();
        reseal(&mut bytes, footer, &mut meta);
        let fs = MemFs::new();
        fs.create(NAME).unwrap().write_at(0, &bytes).unwrap();
        let run = Run::open(&fs, NAME, &meta).unwrap();
        let _ = (run.verify(), forward(&run), backward(&run));
        let mut cursor = RunCursor::new(&run);
        for (keyspace, key, at) in places(&model) {
            let _ = run.get(keyspace, &key, Lsn(at));
            let _ = cursor.seek(keyspace, &key, Lsn(at));
            let _ = cursor.seek_before(keyspace, &key, Lsn(at));
        }
    }
}

/// Makes all checksums hold again.
fn reseal(bytes: &mut [u8], mut footer: Footer, meta: &mut RunMeta) {
    let parts = footer.parts(bytes.len()).unwrap();
    let checksum = |bytes: &[u8], block: usize| {
        crc32fast::hash(&bytes[block * BLOCK_LEN..][..BLOCK_LEN]).to_le_bytes()
    };
    for block in 0..parts.checks {
        let check = checksum(bytes, block);
        bytes[parts.checks * BLOCK_LEN + block * 4..][..4].copy_from_slice(&check);
    }
    footer.checks = (parts.checks..parts.footer)
        .map(|block| checksum(bytes, block))
        .collect();
    let block = footer.encode();
    bytes[parts.footer * BLOCK_LEN..].copy_from_slice(&block);
    meta.check = footer.check;
}

/// A small run with several blocks of entries.
fn small() -> Model {
    let mut model = Model::new();
    for n in 0..1200u32 {
        let key = format!("k{:03}", n / 2).into_bytes();
        let (lsn, op) = (
            Lsn(1 + u64::from(n) * 7919 % 4001),
            if n % 9 == 0 { Op::Delete } else { Op::Put },
        );
        let version = Version {
            lsn,
            len: 100 + n % 3,
            op,
            expires_ms: u64::from(n / 600 * (n % 2)),
        };
        model.insert((1 + n / 900, key, Reverse(lsn.0)), version);
    }
    model
}

/// What a reader finds in a damaged run: for each question the right answer, or `Corrupt`. Answers
/// whether anything was found out.
fn finds_no_wrong_answer(fs: &MemFs, meta: &RunMeta, model: &Model, damage: &str) -> bool {
    let run = match Run::open(fs, NAME, meta) {
        Ok(run) => run,
        Err(error) => {
            assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible),
                "{damage}: {error}"
            );
            return true;
        }
    };
    let mut seen = false;
    let mut corrupt = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}: {error}");
        assert!(error.to_string().contains("offset"), "{error}");
        seen = true;
    };
    for ((keyspace, key, Reverse(lsn)), version) in model.iter().step_by(83) {
        match run.get(*keyspace, key, Lsn(lsn + 1)) {
            Ok(found) => assert_eq!(found, Some(*version), "{damage}"),
            Err(error) => corrupt(error),
        }
        match run.get(*keyspace, &[&key[..], b"-"].concat(), Lsn(lsn + 1)) {
            Ok(found) => assert_eq!(found, None, "{damage}"),
            Err(error) => corrupt(error),
        }
    }
    match forward(&run) {
        Ok(found) => assert_eq!(found, rows(model), "{damage}"),
        Err(error) => corrupt(error),
    }
    match run.verify() {
        Ok(()) => panic!("{damage} is not found by a scrub"),
        Err(error) => corrupt(error),
    }
    seen
}

#[test]
fn every_flipped_bit_is_found_and_none_changes_an_answer() {
    let (fs, model) = (MemFs::new(), small());
    let meta = write(&fs, &model);
    Run::open(&fs, NAME, &meta).unwrap().verify().unwrap();
    let len = crate::format::to_usize(meta.len_bytes);
    assert!(
        (7 * BLOCK_LEN..12 * BLOCK_LEN).contains(&len),
        "{len} bytes"
    );
    for byte in 0..len {
        // Every bit of the blocks' fixed parts and of the footer, one bit of every other byte.
        let dense = byte % BLOCK_LEN < 64 || byte >= len - BLOCK_LEN;
        let bits = if dense { 0..8 } else { byte % 8..byte % 8 + 1 };
        for bit in bits {
            fs.rot(NAME, byte, 1 << bit).unwrap();
            let damage = format!("bit {bit} of byte {byte}");
            assert!(finds_no_wrong_answer(&fs, &meta, &model, &damage));
            fs.rot(NAME, byte, 1 << bit).unwrap();
        }
    }
}

#[test]
fn every_truncation_and_every_other_run_is_refused() {
    let (fs, model) = (MemFs::new(), small());
    let meta = write(&fs, &model);
    let bytes = crate::fs::read_all(&fs, NAME).unwrap();
    let refused = |bytes: &[u8]| {
        let fs = MemFs::new();
        fs.create(NAME).unwrap().write_at(0, bytes).unwrap();
        Run::open(&fs, NAME, &meta).is_err_and(|error| error.kind() == ErrorKind::Corrupt)
    };
    for len in 0..bytes.len() {
        assert!(refused(&bytes[..len]), "cut to {len} bytes");
    }
    assert!(refused(&[&bytes[..], b"x"].concat()));
    // A run that differs in one version, of the same length and counts.
    let mut other = model.clone();
    let middle = other.iter_mut().nth(100).unwrap();
    middle.1.len += 1;
    let other_fs = MemFs::new();
    assert_eq!(write(&other_fs, &other).len_bytes, meta.len_bytes);
    assert!(refused(&crate::fs::read_all(&other_fs, NAME).unwrap()));
}

#[test]
fn blocks_of_two_runs_are_not_taken_for_one_another() {
    let (fs, model) = (MemFs::new(), small());
    let meta = write(&fs, &model);
    let mut bytes = crate::fs::read_all(&fs, NAME).unwrap();
    bytes.copy_within(BLOCK_LEN..2 * BLOCK_LEN, 0);
    let swapped = MemFs::new();
    swapped.create(NAME).unwrap().write_at(0, &bytes).unwrap();
    assert!(finds_no_wrong_answer(
        &swapped,
        &meta,
        &model,
        "a block twice"
    ));
}

#[test]
#[should_panic(expected = "behind")]
fn versions_out_of_order_are_a_bug_of_whoever_writes() {
    let mut writer = RunWriter::create(&MemFs::new(), NAME).unwrap();
    let version = |lsn| Version {
        lsn: Lsn(lsn),
        len: 20,
        op: Op::Put,
        expires_ms: 0,
    };
    writer.push(1, b"a", version(10)).unwrap();
    writer.push(1, b"a", version(20)).unwrap();
}

#[test]
fn a_run_on_a_real_disk_is_synced_mapped_and_outlives_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let fs = crate::fs::OsFs::new(dir.path());
    let mut writer = RunWriter::create(&fs, NAME).unwrap();
    assert!(RunWriter::create(&fs, NAME).is_err(), "the name is taken");
    for ((keyspace, key, _), version) in &small() {
        writer.push(*keyspace, key, *version).unwrap();
    }
    let meta = writer.finish().unwrap();
    let run = Run::open(&fs, NAME, &meta).unwrap();
    fs.unlink(NAME).unwrap();
    run.verify().unwrap();
    assert_eq!(forward(&run).unwrap(), rows(&small()));
}
