//! Making a log, and opening one: the scan, the plan, and its execution once it may be executed.
//!
//! Opening writes nothing to the log. What recovery has to cut or rewrite is done by
//! [`Log::settle`], which a writer calls before it begins an epoch and a follower before it answers
//! a primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::commit::Queue;
use super::gate::Gated;
use super::lane::Lane;
use super::levels::Levels;
use super::manifest::{Manifest, TailLost};
use super::mark::{Mark, MarkFile};
use super::positions::Cell;
use super::recovery::{self, Facts, Missing, Peer, Plan, Role};
use super::retire::Retired;
use super::segment::{self, Segment, Segments, file_name};
use super::settle::Unsettled;
use super::sparse::Sparse;
use super::survey::{Known, Survey, survey};
use super::walk::offset_in_file;
use super::writer::Writer;
use super::{Log, LogState};
use crate::clock::Clock;
use crate::config::{Config, InitOptions};
use crate::conflict::Recent;
use crate::entropy::SystemEntropy;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Chain, ChainRecord, ClusterId, History, Lsn, LsnRange, NodeId};
use crate::fs::Fs;
use crate::metrics::Counters;

/// Where bytes that a cut takes out of the log are kept.
pub(super) const ASIDE: &str = "aside";

/// How a log is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
    /// By the one process that may write it.
    Full,
    /// For reading alone, whoever writes it meanwhile. Its files refuse everything else.
    ReadOnly,
}

/// What recovery found, and what it did about it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recovered {
    /// End of the log as it was found.
    pub end: Lsn,
    /// Highest position that something vouched was durable here.
    pub vouched: Lsn,
    /// Bytes behind the end that were taken away; copies are kept in [`Recovered::aside`].
    pub torn_bytes: u64,
    /// The files that keep them, relative to the store's directory.
    pub aside: Vec<String>,
    /// Files whose header or footer was damaged and was written again from the chain.
    pub mended: Vec<String>,
    /// What the peer holds of this log and this disk lost. It is fetched back.
    pub lost_tail: Option<LsnRange>,
    /// On a follower whose log ends below what it had acknowledged: up to where. What is missing
    /// must be sent again. `None` once it was.
    pub acked_tail_lost: Option<Lsn>,
}

impl Log {
    /// Makes the files of an empty log. Nothing that exists is overwritten.
    pub(crate) fn init(fs: &dyn Fs, options: &InitOptions) -> Result<NodeId> {
        options.validate()?;
        let place = fs.place();
        if Manifest::exists(fs)? {
            let message =
                format!("{place} holds a store already: open it, or name another directory");
            return Err(Error::new(ErrorKind::AlreadyInitialised, message));
        }
        let making = |error| Error::io(format_args!("make a store in {place}"), error);
        fs.create_dir("").map_err(making)?;
        let _lock = lock(fs)?;
        for dir in [segment::DIR, ASIDE] {
            fs.create_dir(dir).map_err(making)?;
        }
        MarkFile::create(fs)?;
        // Its name must not be lost where that of the manifest is not.
        fs.sync_dir("").map_err(making)?;
        let manifest = Manifest {
            node: options.node,
            node_name: options.node_name.clone(),
            has_peer: options.has_peer,
            follower_at_init: options.follower,
            ..Manifest::of_cluster(options.cluster, options.segment_size)
        };
        // The manifest last: a directory without one is not a store, whatever else lies in it.
        manifest.store(fs)?;
        Ok(manifest.node)
    }

    /// [`Log::open_as`] the one process that may write it.
    #[cfg(test)]
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
        replay_point: &mut dyn FnMut(ClusterId, NodeId) -> Option<ChainRecord>,
    ) -> Result<Arc<Self>> {
        Self::open_as(Opening::Full, fs, clock, config, replay_point)
    }

    /// Opens a log. Writes nothing to it.
    ///
    /// `replay_point` is asked, once nobody else can change the directory, up to where something
    /// durable holds what the log says; the log is read from there on.
    pub(crate) fn open_as(
        opening: Opening,
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        config: Config,
        replay_point: &mut dyn FnMut(ClusterId, NodeId) -> Option<ChainRecord>,
    ) -> Result<Arc<Self>> {
        // Before the lock, which would leave a file in a directory that holds no store; and again
        // once nobody else can be changing it.
        Manifest::load(&*fs)?;
        let lock = lock(&*fs)?;
        let manifest = Manifest::load(&*fs)?;
        if opening == Opening::Full {
            if Manifest::load_copy(&*fs).ok().as_ref() != Some(&manifest) {
                manifest.store(&*fs)?;
            }
            super::rewind::sweep(&*fs)
                .map_err(|error| Error::io(format_args!("tidy {}", fs.place()), error))?;
        }
        let mut mark = MarkFile::open(&*fs)?;
        if opening == Opening::Full {
            mark.make_writable(&*fs)?;
        }
        let replay = replay_point(manifest.cluster, manifest.node);
        let survey = survey(&*fs, &Known::from(&manifest), replay.as_ref())?;
        let judged = judge(&survey, &manifest, mark.newest(), replay.as_ref())?;
        let Judged {
            history,
            facts,
            tail_lost,
            ..
        } = &judged;
        let plan = recovery::plan(*facts);
        tracing::debug!(?facts, ?plan, "the log was read");
        if let Plan::Refuse(range) = plan {
            return Err(refusal(&*fs, &survey, range, manifest.has_peer));
        }
        let vouched = facts.vouched.min(facts.end);
        let recovered = Recovered {
            end: facts.end,
            vouched,
            acked_tail_lost: tail_lost.map(|lost| lost.lsn),
            ..Recovered::default()
        };
        let state = match (opening, &manifest.halted, manifest.fenced_by) {
            (Opening::ReadOnly, _, _) => LogState::ReadOnly,
            (Opening::Full, Some(why), _) => LogState::Halted(why.clone()),
            (Opening::Full, None, Some(by)) => LogState::Fenced(by),
            (Opening::Full, None, None) => LogState::Reading,
        };
        let cell = Cell::default();
        cell.change(|now| {
            now.appended = survey.end.position();
            let whole = survey
                .ends
                .partition_point(|position| position.lsn <= vouched);
            now.durable = whole
                .checked_sub(1)
                .and_then(|i| survey.ends.get(i))
                .copied()
                .unwrap_or_default();
        });
        let history = history.clone();
        let chain = survey.end;
        let replay_from = match replay {
            Some(replay) if survey.replay_holds => replay.chain(manifest.cluster),
            _ => Chain::origin(manifest.cluster),
        };
        let retired = survey.replaced.iter().cloned().map(Retired::File);
        let retired = retired.collect();
        let unsettled = Some(Unsettled::new(&survey, *facts, *tail_lost));
        let log = Arc::new(Self {
            opening,
            counters: Counters::default(),
            clock,
            cluster: manifest.cluster,
            node: manifest.node,
            segment_size: manifest.segment_size,
            mark: Mutex::new(mark),
            history: RwLock::new(history),
            state: RwLock::new(state),
            retired: Mutex::new(retired),
            segments: segments_of(survey, &*fs, !config.read_mode.copies())?,
            replay_from,
            cell,
            queue: Mutex::new(Queue::default()),
            writer: Arc::new(Mutex::new(Writer {
                chain,
                active: None,
                recent: Recent::default(),
                log_base: super::time::Base::default(),
                unsettled,
            })),
            syncing: Mutex::default(),
            past_cache: AtomicBool::new(false),
            entropy: Mutex::new(Arc::new(SystemEntropy)),
            preparation: Mutex::default(),
            sink: Mutex::new(None),
            levels: Levels::default(),
            gated: Gated::default(),
            lane: Lane::default(),
            background: Mutex::new(None),
            held_log_ms: AtomicU64::new(0),
            synced_at_ns: AtomicU64::new(0),
            mark_armed: AtomicBool::new(false),
            armed_at_ns: AtomicU64::new(0),
            recovered: Mutex::new(recovered),
            manifest: Mutex::new(manifest),
            manifest_changes: Mutex::new(()),
            replacing: Mutex::new(()),
            reserve_kept: AtomicBool::new(false),
            peer_holds: Mutex::new(None),
            fs,
            config,
            _lock: lock,
        });
        if log.config.background {
            log.lane.start(&log)?;
        }
        Ok(log)
    }
}

impl<'a> From<&'a Manifest> for Known<'a> {
    fn from(manifest: &'a Manifest) -> Self {
        Self {
            cluster: manifest.cluster,
            node: manifest.node,
            segment_size: manifest.segment_size,
            epochs: manifest.history.epochs(),
            received: &manifest.received,
        }
    }
}

/// What segments, manifest and mark say together.
pub(super) struct Judged {
    /// The epochs of the log as far as it holds.
    pub(super) history: History,
    pub(super) facts: Facts,
    /// What this node acknowledged and does not hold.
    pub(super) tail_lost: Option<TailLost>,
}

/// Brings together what vouches, and who wrote last.
pub(super) fn judge(
    survey: &Survey,
    manifest: &Manifest,
    mark: Option<Mark>,
    replay: Option<&ChainRecord>,
) -> Result<Judged> {
    let end = survey.end.lsn;
    let mut known = manifest.history.clone();
    for epoch in &survey.epochs {
        if known.find(epoch.id).is_none() {
            // The manifest learns of an epoch before the log does, unless it is an older copy: then
            // the log is right.
            known = known.cut(epoch.fork);
            known.push(epoch.clone()).map_err(|fault| {
                let message = format!("the log's epochs contradict the manifest: {fault}");
                Error::new(ErrorKind::Corrupt, message)
            })?;
        }
    }
    // A mark and a replay point count up to where this history leaves their epoch.
    let counts = |epoch, lsn: Lsn| {
        let left = known.end_of(epoch, lsn);
        left.map_or(Lsn::ZERO, |left| left.min(lsn))
    };
    let marked = mark.map(|mark| counts(mark.epoch, mark.lsn));
    let replayed = replay.map(|replay| counts(replay.epoch.2, replay.lsn));
    // What was compacted by was shown here, to the end of its frame.
    let compacted = survey.sparse.iter().map(|header| header.horizon).max();
    let compacted = compacted.map(|horizon| {
        let within = survey.ends.iter().find(|end| end.lsn >= horizon);
        within.map_or(horizon, |end| end.lsn)
    });
    let vouched = marked
        .into_iter()
        .chain(replayed)
        .chain(compacted)
        .fold(survey.vouched, Lsn::max);
    // By all that is known, and not only by what is left: damage to what a node once received does
    // not take away that it wrote since.
    let newest = known.epoch_before(end.max(vouched));
    let role = if newest.is_some_and(|epoch| epoch.node == manifest.node) {
        Role::Writer
    } else {
        Role::Follower
    };
    let facts = Facts {
        end,
        vouched,
        litter: survey.litter,
        role,
        peer: if manifest.has_peer {
            Peer::NotHeard
        } else {
            Peer::None
        },
    };
    let history = known.cut(end);
    let fresh = match recovery::plan(facts) {
        Plan::Go {
            missing: Missing::Acked(range),
            ..
        } => known
            .epoch_before(range.end)
            .map(|epoch| TailLost::new(epoch, range.end)),
        _ => None,
    };
    let noted = manifest.tail_lost.filter(|lost| lost.lasts(&history, end));
    // Of two, what was promised further is what a certificate must count.
    let tail_lost = fresh.into_iter().chain(noted).max_by_key(|lost| lost.lsn);
    Ok(Judged {
        history,
        facts,
        tail_lost,
    })
}

fn segments_of(survey: Survey, fs: &dyn Fs, mapped: bool) -> Result<Segments> {
    let segments = Segments::default();
    for header in survey.sparse {
        segments.insert_sparse(Arc::new(Sparse::new(header)));
    }
    for whole in survey.whole {
        segments.insert(Arc::new(Segment::sealed(
            whole.header,
            whole.footer.end.lsn,
        )));
    }
    if let Some(last) = survey.last {
        let segment = Segment::active_behind(last.header, last.from);
        if mapped {
            segment.map_left(fs)?;
        }
        if !last.frames.is_empty() {
            segment.push(last.from, last.frames);
        }
        segments.insert(Arc::new(segment));
    }
    Ok(segments)
}

/// Names what does not hold, where it lies and which command mends it.
fn refusal(fs: &dyn Fs, survey: &Survey, range: LsnRange, has_peer: bool) -> Error {
    let place = fs.place();
    let damage: Vec<_> = survey
        .faults
        .iter()
        .filter(|fault| !fault.kind.is_of_a_crash() && fault.range.is_some())
        .collect();
    let (where_, more) = match damage.as_slice() {
        [] => {
            let (ordinal, base) = match &survey.last {
                Some(last) => (last.header.ordinal, last.header.base()),
                None => (survey.whole.len() as u64 + 1, survey.end.lsn),
            };
            let offset = offset_in_file(range.start, base);
            (format!("{}, offset {offset}", file_name(ordinal)), 0)
        }
        [first, more @ ..] => (first.to_string(), more.len()),
    };
    let more = if more > 0 {
        format!(", and {more} more")
    } else {
        String::new()
    };
    let copy = format!("`outlast repair --dir {place} --from DIR`");
    let mended_by = if has_peer {
        format!(
            "`outlast repair --dir {place} --from-peer` mends them with the bytes of the other \
             node where that one runs, and {copy} with its directory or a backup"
        )
    } else {
        format!("{copy} mends them with a backup")
    };
    let message = format!(
        "{place} is damaged ({where_}{more}): {range} was durable here and does not hold any more; \
         nothing was cut or changed. `outlast check --dir {place}` names every fault, and \
         {mended_by}"
    );
    Error::new(ErrorKind::Corrupt, message)
}

pub(super) fn lock(fs: &dyn Fs) -> Result<Box<dyn Send + Sync>> {
    fs.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            let message = format!(
                "{} is in use by another process: talk to that one, or stop it first",
                fs.place()
            );
            Error::new(ErrorKind::Locked, message)
        }
        _ => Error::io(format_args!("lock {}", fs.place()), error),
    })
}
