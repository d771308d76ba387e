//! The control socket: how the command line and other programs talk to a running node.

pub mod protocol;
