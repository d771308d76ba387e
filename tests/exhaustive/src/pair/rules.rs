//! The rules that can be switched off, one at a time.

/// A rule of the pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A standby acknowledges only what it has fsynced.
    AckAfterFsync,
    /// A promotion waits until the lease of the old primary is out.
    FenceWaitsForLease,
    /// That wait allows for clocks of different rates.
    FenceAllowsForDrift,
    /// A standby that has withdrawn echoes nothing.
    NoEchoAfterWithdrawal,
    /// Silence starts again when the standby does.
    SilenceFromRestart,
    /// The gate reads the clock after it has captured what waits.
    ClockReadLast,
    /// A primary that restarted answers nothing before a standby has answered this process.
    RestartWaitsForStandby,
    /// An echo counts in its own session only.
    EchoOfThisSession,
    /// A handshake is answered by its own nonce only.
    HandshakeOfThisSession,
    /// A certificate stands on a protection record that the standby's own log holds.
    CertificateByRecord,
    /// And only if that record says that it is in force.
    CertificateInForce,
    /// A newer record that a heartbeat names is noted durably before the echo.
    NoteBeforeEcho,
    /// A primary that was told to go on alone tells its standby that nothing is promised any more.
    EpochStartTold,
    /// A suspension waits until the standby has heard of it, or was silent for the lease.
    SuspensionHeard,
    /// A looser record counts only once the standby has it durable.
    LooseningWaitsForStandby,
    /// A commit is answered only within the bound behind what is replicated.
    AnswerWithinBound,
    /// And within the bound of time after the oldest answer that is not replicated.
    AnswerWithinTime,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::AckAfterFsync,
        Self::FenceWaitsForLease,
        Self::FenceAllowsForDrift,
        Self::NoEchoAfterWithdrawal,
        Self::SilenceFromRestart,
        Self::ClockReadLast,
        Self::RestartWaitsForStandby,
        Self::EchoOfThisSession,
        Self::HandshakeOfThisSession,
        Self::CertificateByRecord,
        Self::CertificateInForce,
        Self::NoteBeforeEcho,
        Self::EpochStartTold,
        Self::SuspensionHeard,
        Self::LooseningWaitsForStandby,
        Self::AnswerWithinBound,
        Self::AnswerWithinTime,
    ];
}
