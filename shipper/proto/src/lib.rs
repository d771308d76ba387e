//! The shipping protocol as pure state machines: no sockets, no clock, no files.
