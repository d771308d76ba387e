//! The line between the two machines: links of two ordered channels each way, latency, partitions.

use std::collections::VecDeque;

use bytes::Bytes;
use outlast_proto::{Message, RunHeader};

/// Names a link for the whole run.
pub(crate) type LinkId = usize;

/// Which of a link's two streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Control,
    Data,
}

/// What travels.
#[derive(Debug)]
pub(crate) enum Item {
    Message(Message),
    RunStart(RunHeader),
    RunBytes(Bytes),
    /// The other end has closed, or is dead.
    End,
}

/// One direction of one stream. Nothing overtakes anything in it.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    queue: VecDeque<(u64, Item)>,
    last_ns: u64,
    /// Whether a look at the channel is scheduled.
    pub(crate) scheduled: bool,
}

impl Channel {
    /// Puts an item in, to arrive at `ready_ns` or behind what is ahead of it.
    pub(crate) fn push(&mut self, ready_ns: u64, item: Item) {
        self.last_ns = self.last_ns.max(ready_ns);
        self.queue.push_back((self.last_ns, item));
    }

    /// When the next item arrives.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.queue.front().map(|(ready_ns, _)| *ready_ns)
    }

    pub(crate) fn peek(&self) -> Option<&Item> {
        self.queue.front().map(|(_, item)| item)
    }

    pub(crate) fn pop(&mut self) -> Option<Item> {
        self.queue.pop_front().map(|(_, item)| item)
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }
}

/// A connection. End 0 dialled.
#[derive(Debug)]
pub(crate) struct Link {
    /// The node at each end.
    nodes: [usize; 2],
    /// The life of that node's process.
    lives: [u32; 2],
    open: [bool; 2],
    /// Whether the run of data of each end has begun: all of a session is one run.
    run_begun: [bool; 2],
    /// By the end that sends: control, data.
    channels: [[Channel; 2]; 2],
}

impl Link {
    pub(crate) fn new(nodes: [usize; 2], lives: [u32; 2]) -> Self {
        Self {
            nodes,
            lives,
            open: [true; 2],
            run_begun: [false; 2],
            channels: Default::default(),
        }
    }

    pub(crate) fn channel(&mut self, from_end: usize, kind: Kind) -> &mut Channel {
        let [dialler, listener] = &mut self.channels;
        let [control, data] = if from_end == 0 { dialler } else { listener };
        match kind {
            Kind::Control => control,
            Kind::Data => data,
        }
    }

    pub(crate) fn node(&self, end: usize) -> usize {
        of(self.nodes, end)
    }

    pub(crate) fn life(&self, end: usize) -> u32 {
        of(self.lives, end)
    }

    pub(crate) fn is_open(&self, end: usize) -> bool {
        of(self.open, end)
    }

    /// Closes an end. Answers whether it was open.
    pub(crate) fn shut(&mut self, end: usize) -> bool {
        std::mem::replace(of_mut(&mut self.open, end), false)
    }

    /// Begins an end's run of data. Answers whether it had not begun.
    pub(crate) fn begin_run(&mut self, end: usize) -> bool {
        !std::mem::replace(of_mut(&mut self.run_begun, end), true)
    }

    /// The end at which `node` is.
    pub(crate) fn end_of(&self, node: usize) -> usize {
        usize::from(self.node(0) != node)
    }
}

/// What belongs to end (or node) 0 or 1.
pub(crate) fn of<T: Copy>([zero, one]: [T; 2], end: usize) -> T {
    if end == 0 { zero } else { one }
}

fn of_mut<T>([zero, one]: &mut [T; 2], end: usize) -> &mut T {
    if end == 0 { zero } else { one }
}

/// Which ways are cut, and how long what travels takes.
#[derive(Debug)]
pub(crate) struct Line {
    /// By the sending node.
    pub(crate) cut: [bool; 2],
    /// Counts the times that something was cut, so that one cut can be told from the next.
    pub(crate) cuts: u32,
    pub(crate) latency_ns: u64,
}
