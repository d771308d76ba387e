//! A node of a pair: following, replay, promotion, fencing, status and the control socket.

pub mod certificate;
pub mod control;
pub mod status;
