//! What quinn says, told in our words.

use quinn::{
    ApplicationClose, ConnectionError, ReadError, StoppedError, TransportErrorCode, WriteError,
};

use crate::error::{CloseCode, LinkError, PeerRefusal, Refusal};

/// Longest reason of a peer that is repeated, in characters.
const REASON_CHARS_MAX: usize = 200;

/// Where QUIC's error codes carry a TLS alert.
const ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// Why a connection ended, as far as quinn knows: what this node itself said is not among it.
pub(super) fn of_connection(error: ConnectionError, idle_timeout_ms: u64) -> LinkError {
    match error {
        ConnectionError::ApplicationClosed(close) => of_close(&close),
        ConnectionError::ConnectionClosed(close) => {
            let code = u64::from(close.error_code);
            if let Some(alert) = alert(code) {
                LinkError::RefusedByPeer(peer_refusal(alert))
            } else if close.error_code == TransportErrorCode::CONNECTION_REFUSED {
                LinkError::NotTaken
            } else {
                LinkError::Transport {
                    by_peer: true,
                    code,
                    reason: printable(&close.reason),
                }
            }
        }
        ConnectionError::TransportError(error) => {
            let code = u64::from(error.code);
            match alert(code).and_then(own_refusal) {
                Some(refusal) => LinkError::Refused(refusal),
                None => LinkError::Transport {
                    by_peer: false,
                    code,
                    reason: printable(error.reason.as_bytes()),
                },
            }
        }
        ConnectionError::Reset => LinkError::Forgotten,
        ConnectionError::TimedOut => LinkError::Silent { idle_timeout_ms },
        ConnectionError::LocallyClosed => LinkError::Endpoint {
            reason: "it was closed".to_owned(),
        },
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => LinkError::Transport {
            by_peer: false,
            code: 0,
            reason: error.to_string(),
        },
    }
}

/// Why a stream cannot be written, or the connection's own reason.
pub(super) fn of_write(error: WriteError) -> Result<LinkError, ConnectionError> {
    match error {
        WriteError::ConnectionLost(error) => Err(error),
        WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            Ok(LinkError::NotRead)
        }
    }
}

/// The same for a stream whose end is waited for.
pub(super) fn of_stopped(error: StoppedError) -> Result<LinkError, ConnectionError> {
    match error {
        StoppedError::ConnectionLost(error) => Err(error),
        StoppedError::ZeroRttRejected => Ok(LinkError::NotRead),
    }
}

/// Why a stream cannot be read: taken back by the peer, or the connection's own reason.
pub(super) fn of_read(
    error: ReadError,
    taken_back: LinkError,
) -> Result<LinkError, ConnectionError> {
    match error {
        ReadError::ConnectionLost(error) => Err(error),
        ReadError::Reset(_)
        | ReadError::ClosedStream
        | ReadError::IllegalOrderedRead
        | ReadError::ZeroRttRejected => Ok(taken_back),
    }
}

fn of_close(close: &ApplicationClose) -> LinkError {
    LinkError::ClosedByPeer {
        code: CloseCode(u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX)),
        reason: printable(&close.reason),
    }
}

fn alert(code: u64) -> Option<u8> {
    let alert = code.checked_sub(ALERTS.start)?;
    u8::try_from(alert).ok()
}

/// What this node found, by the alert that it sent, where no certificate had to be judged for it.
fn own_refusal(alert: u8) -> Option<Refusal> {
    match alert {
        70 => Some(Refusal::OldTls),
        116 => Some(Refusal::NoCertificate),
        120 => Some(Refusal::OtherProtocol),
        _ => None,
    }
}

fn peer_refusal(alert: u8) -> PeerRefusal {
    match alert {
        42 => PeerRefusal::BadCertificate,
        49 => PeerRefusal::Untrusted,
        51 => PeerRefusal::BadSignature,
        70 => PeerRefusal::OldTls,
        116 => PeerRefusal::NoCertificate,
        120 => PeerRefusal::OtherProtocol,
        other => PeerRefusal::Other(other),
    }
}

/// What a peer wrote, fit for a log line.
fn printable(bytes: &[u8]) -> String {
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    String::from_utf8_lossy(bytes)
        .chars()
        .take(REASON_CHARS_MAX)
        .map(printable)
        .collect()
}
