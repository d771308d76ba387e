//! An append-only log of checksummed segments with an ordered key-value state on top.
