//! A log as the model has it: for each frame the epoch that wrote it.

/// Most frames of a log, those that begin an epoch among them.
pub(super) const FRAMES: usize = 7;

/// Frames from the beginning, each by its epoch's number in the model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Log {
    frames: [u8; FRAMES],
    end: u8,
}

impl Log {
    pub(super) fn frames(&self) -> &[u8] {
        &self.frames[..usize::from(self.end)]
    }

    /// Where the next frame begins.
    pub(super) const fn end(&self) -> u8 {
        self.end
    }

    pub(super) fn push(&mut self, epoch: u8) {
        self.frames[usize::from(self.end)] = epoch;
        self.end += 1;
    }

    /// What is left when all from `end` on is taken away.
    pub(super) fn cut(mut self, end: u8) -> Self {
        self.frames[usize::from(end)..].fill(0);
        self.end = self.end.min(end);
        self
    }

    /// How many frames two logs share from the beginning.
    pub(super) fn shared(&self, other: &Self) -> u8 {
        let both = self.frames().iter().zip(other.frames());
        both.take_while(|(a, b)| a == b).fold(0, |n, _| n + 1)
    }

    /// The epoch of the last frame.
    pub(super) fn last(&self) -> Option<u8> {
        self.frames().last().copied()
    }

    /// Its epochs, and where each begins.
    pub(super) fn epochs(&self) -> impl Iterator<Item = (u8, u8)> {
        let frames = self.frames();
        let begins = move |&(at, epoch): &(u8, &u8)| {
            at == 0 || frames.get(usize::from(at) - 1) != Some(epoch)
        };
        (0..)
            .zip(frames)
            .filter(begins)
            .map(|(at, epoch)| (*epoch, at))
    }

    /// Whether frame `end`, counted from 1, was written by `epoch` here.
    pub(super) fn holds(&self, epoch: u8, end: u8) -> bool {
        self.frames().get(usize::from(end) - 1) == Some(&epoch)
    }
}
