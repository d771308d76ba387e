//! Everything that names quinn or rustls' handshake.

pub(crate) mod control;
pub(crate) mod data;
pub(crate) mod endpoint;
mod failure;
pub(crate) mod link;
mod queue;
mod runtime;
mod shield;
pub(crate) mod socket;
mod tls;
pub(crate) mod transport;
