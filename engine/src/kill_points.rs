//! Named moments at which a process can be made to end, for the tests that end it there.
//!
//! With the feature `kill-points`, which only those tests turn on, `OUTLAST_KILL_AT=name:n` lets a
//! process send itself SIGKILL at the n-th passing of a point; with `name:n:ms` the thread that
//! gets there stands still for so long before, and the others go on. `OUTLAST_STALL_AT=name:n` lets
//! that thread stand still and nothing else. Without the feature [`pass`] is an empty function and
//! nothing of this is left in the program.

macro_rules! points {
    ($($(#[$what:meta])* $point:ident = $name:literal,)*) => {
        /// A moment at which a process can be made to end.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Point {
            $($(#[$what])* $point,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// What it is called.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// A frame, or a run of them, is in memory and about to be written.
    WriteBegins = "write-begins",
    /// It is written.
    Written = "written",
    /// What was written is about to be fsynced.
    SyncBegins = "sync-begins",
    /// It is fsynced, and no position says so yet.
    Synced = "synced",
    /// A group is durable and visible; its callers have not been woken.
    GroupShown = "group-shown",
    /// What the standby reported is published; who waits for it has not been woken.
    ReplicaShown = "replica-shown",
    /// A full segment is about to get its footer.
    SealBegins = "seal-begins",
    /// The footer is written.
    SealWritten = "seal-written",
    /// The footer is fsynced; the mark is not noted.
    SealSynced = "seal-synced",
    /// The segment is sealed; the next has no header.
    Sealed = "sealed",
    /// The next segment has its header and no frame.
    SegmentBegun = "segment-begun",
    /// The file of a segment to come is made and empty.
    PreparationBegun = "preparation-begun",
    /// A piece of it is filled with zeros and not synced.
    PreparationFilled = "preparation-filled",
    /// A piece of it is synced; its name may not be.
    PreparationSynced = "preparation-synced",
    /// It is whole, and its name is synced.
    Prepared = "prepared",
    /// A file that replaces another is written and not synced.
    ReplaceWritten = "replace-written",
    /// It is synced and has its temporary name.
    ReplaceSynced = "replace-synced",
    /// It has its name, which is not synced.
    ReplaceRenamed = "replace-renamed",
    /// The manifest is replaced; its second copy is not.
    ManifestReplaced = "manifest-replaced",
    /// The durable mark is about to be written.
    MarkBegins = "mark-begins",
    /// It is written and not synced.
    MarkWritten = "mark-written",
    /// It is synced.
    MarkSynced = "mark-synced",
    /// A part of a sparse segment is written.
    SparsePartWritten = "sparse-part-written",
    /// A sparse segment is whole, synced and has its temporary name.
    SparseSynced = "sparse-synced",
    /// It has its name, which is not synced.
    SparseNamed = "sparse-named",
    /// Its name is synced; what it stands for is still there.
    SparseAdopted = "sparse-adopted",
    /// A file that another stands for is shrunk by a part.
    RetiredPart = "retired-part",
    /// Such a file is gone.
    Retired = "retired",
    /// Recovery has written the manifest again, and nothing else.
    SettleBegun = "settle-begun",
    /// Recovery has written the tail again and not synced it.
    TailRewritten = "tail-rewritten",
    /// Recovery is done; nothing new was written.
    Settled = "settled",
    /// A new epoch is in the manifest and not in the log.
    EpochNoted = "epoch-noted",
    /// Its frame is durable; the node does not write yet.
    EpochFramed = "epoch-framed",
    /// The node writes in it.
    EpochOpen = "epoch-open",
    /// It is noted that a standby attaches, which has no answer yet.
    AttachmentNoted = "attachment-noted",
    /// A newer term is about to be noted as this node's fence.
    FenceBegins = "fence-begins",
    /// It is noted; the node does not know it yet.
    FenceNoted = "fence-noted",
    /// A newer term is noted by a node that follows.
    TermNoted = "term-noted",
    /// A range that was lost here is noted as fetched back, and not appended.
    FetchNoted = "fetch-noted",
    /// It is appended and not fsynced.
    FetchAppended = "fetch-appended",
    /// Frames of the primary have arrived, and are checked.
    RunReceived = "run-received",
    /// Their epoch is in the manifest and not in the log.
    EpochLearnt = "epoch-learnt",
    /// They are appended and not fsynced.
    RunAppended = "run-appended",
    /// They are fsynced, and not reported.
    RunSynced = "run-synced",
    /// A report is on its way to the primary.
    Reported = "reported",
    /// A follower has applied a frame that its readers do not see yet.
    FrameReplayed = "frame-replayed",
    /// A forked tail is kept aside and not cut off.
    ForkKept = "fork-kept",
    /// The mark no longer vouches for it.
    ForkUnmarked = "fork-unmarked",
    /// It is cut off; the manifest does not know.
    ForkCut = "fork-cut",
    /// A segment that takes another's place is whole and has its temporary name.
    SegmentRewritten = "segment-rewritten",
    /// A promotion is decided; nothing was done.
    PromotionDecided = "promotion-decided",
    /// The follower has withdrawn.
    PromotionWithdrawn = "promotion-withdrawn",
    /// The epoch is open; there is no certificate.
    PromotionOpened = "promotion-opened",
    /// The certificate is written and not synced.
    CertificateWritten = "certificate-written",
    /// It is stored and not printed.
    CertificateStored = "certificate-stored",
}

#[cfg(feature = "kill-points")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    /// Where something is to happen, how many passings are left until then, and after how long.
    struct Armed {
        point: Point,
        left: AtomicU64,
        after: Duration,
    }

    static KILL: LazyLock<Option<Armed>> = LazyLock::new(|| Armed::read("OUTLAST_KILL_AT"));
    static STALL: LazyLock<Option<Armed>> = LazyLock::new(|| Armed::read("OUTLAST_STALL_AT"));

    impl Armed {
        fn read(variable: &str) -> Option<Self> {
            let text = std::env::var(variable).ok()?;
            let armed = Self::parse(&text);
            assert!(
                armed.is_some(),
                "{variable}={text}: name a point and a passing, as synced:3"
            );
            armed
        }

        fn parse(text: &str) -> Option<Self> {
            let mut parts = text.split(':');
            let name = parts.next()?;
            let point = Point::ALL.iter().find(|point| point.name() == name)?;
            let left = parts.next()?.parse().ok().filter(|left| *left > 0)?;
            let after_ms = parts.next().map_or(Some(0), |text| text.parse().ok())?;
            Some(Self {
                point: *point,
                left: AtomicU64::new(left),
                after: Duration::from_millis(after_ms),
            })
        }

        /// Whether this passing is the one. Those behind it are not.
        fn is_due(&self, point: Point) -> bool {
            let less = |left: u64| left.checked_sub(1);
            self.point == point
                && self
                    .left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                    == Ok(1)
        }
    }

    /// Ends this process, or lets this thread stand still, if that was asked for here and now.
    pub fn pass(point: Point) {
        if let Some(armed) = KILL.as_ref().filter(|armed| armed.is_due(point)) {
            let begun = Instant::now();
            while let Some(left) = armed.after.checked_sub(begun.elapsed()) {
                std::thread::park_timeout(left);
            }
            let ended = kill_process(getpid(), Signal::KILL);
            assert!(ended.is_ok(), "no signal could be sent at {}", point.name());
            stand();
        }
        if STALL.as_ref().is_some_and(|armed| armed.is_due(point)) {
            stand();
        }
    }

    fn stand() -> ! {
        loop {
            std::thread::park();
        }
    }
}

#[cfg(feature = "kill-points")]
pub use armed::pass;

/// Does nothing, without the feature.
#[cfg(not(feature = "kill-points"))]
pub const fn pass(_: Point) {}
