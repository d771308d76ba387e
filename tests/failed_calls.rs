//! Calls to the system that fail.
