//! The rules of terms and logs that can be switched off, one at a time.

/// A rule of roles, terms and logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// What orders epochs is the term, not how many writers' starts there were.
    OrderByTerm,
    /// One number that two epochs opened is a conflict.
    EqualTermsConflict,
    /// A standby notes a term durably before it answers under it.
    TermNotedFirst,
    /// A standby follows only the highest term that it ever heard of.
    FollowsHighestOnly,
    /// A fence outlives the process.
    FenceDurable,
    /// Who is told of a higher term fences itself.
    FenceAtHigherTerm,
    /// A new term is above every one that its node ever heard of.
    TermAboveHeard,
    /// An epoch is durable before it is used.
    EpochDurableFirst,
    /// Epochs are known by their ids, not by their numbers.
    EpochsHaveIds,
    /// Only the proof of another history cuts a log.
    CutOnProof,
    /// A handshake is answered by its own nonce only.
    HandshakeOfThisSession,
    /// An acknowledgement counts in its own session only.
    AckOfThisSession,
    /// A primary that restarted begins no epoch before all its standbys have answered it.
    RestartWaitsForStandby,
    /// And it fetches back what they hold and it lost.
    FetchBack,
    /// That a standby attached is noted durably: a primary without any does not wait.
    AttachmentNoted,
    /// What is answered as replicated is held by all standbys.
    AllHoldIt,
    /// And fsynced on the primary too.
    DurableHereToo,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::OrderByTerm,
        Self::EqualTermsConflict,
        Self::TermNotedFirst,
        Self::FollowsHighestOnly,
        Self::FenceDurable,
        Self::FenceAtHigherTerm,
        Self::TermAboveHeard,
        Self::EpochDurableFirst,
        Self::EpochsHaveIds,
        Self::CutOnProof,
        Self::HandshakeOfThisSession,
        Self::AckOfThisSession,
        Self::RestartWaitsForStandby,
        Self::FetchBack,
        Self::AttachmentNoted,
        Self::AllHoldIt,
        Self::DurableHereToo,
    ];
}
