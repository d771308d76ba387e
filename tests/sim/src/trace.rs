//! What happened, as lines that people read and as one number that two runs are compared by.

use std::fmt::{Arguments, Write};

/// The trace of one seed. Lines are kept on demand; the number always covers all of them.
pub(crate) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
    line: String,
}

impl Trace {
    pub(crate) fn new(keep: bool) -> Self {
        Self {
            hash: FNV_OFFSET,
            lines: keep.then(Vec::new),
            line: String::new(),
        }
    }

    /// Adds a line about what happened at `now_ns` to a node, or (`None`) to the world.
    pub(crate) fn say(&mut self, now_ns: u64, node: Option<usize>, what: Arguments<'_>) {
        self.line.clear();
        let name = node.map_or("-", node_name);
        let (ms, us) = (now_ns / 1_000_000, now_ns / 1_000 % 1_000);
        // Writing to a String cannot fail.
        let _ = write!(self.line, "{ms:6}.{us:03} {name} {what}");
        self.hash = fnv(self.hash, self.line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(self.line.clone());
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

/// The two nodes' names.
pub(crate) const fn node_name(node: usize) -> &'static str {
    match node {
        0 => "a",
        _ => "b",
    }
}

pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// Continues an FNV-1a hash.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
