//! Small files that hold one thing: postcard in an envelope, written and read as a whole.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Envelope, EnvelopeFault};

/// The bytes of a file that holds `body`; `what` names it.
///
/// # Errors
/// `Limit` when it does not encode.
pub(crate) fn encode<T: Serialize>(envelope: &Envelope, body: &T, what: &str) -> Result<Vec<u8>> {
    let body = postcard::to_stdvec(body).map_err(|error| {
        Error::new(ErrorKind::Limit, format!("{what} grew too large")).because(error)
    })?;
    Ok(envelope.seal(&body))
}

/// What the file at `path` holds. `corrupt` makes an error of why its bytes do not hold.
///
/// # Errors
/// `Incompatible` for another version's, and what `corrupt` makes.
pub(crate) fn decode<T: DeserializeOwned>(
    envelope: &Envelope,
    bytes: &[u8],
    path: &str,
    corrupt: &dyn Fn(String) -> Error,
) -> Result<T> {
    let body = envelope.open(bytes).map_err(|fault| match fault {
        EnvelopeFault::Version { .. } => {
            Error::new(ErrorKind::Incompatible, format!("{path}: {fault}"))
        }
        _ => corrupt(fault.to_string()),
    })?;
    postcard::from_bytes(body).map_err(|error| corrupt(error.to_string()))
}
