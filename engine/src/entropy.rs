//! The one place that draws random numbers, so that a simulation can draw its own.

use std::fmt::Debug;

/// What the engine asks of a source of random numbers: ids that nobody else ever draws.
pub trait Entropy: Send + Sync + Debug {
    /// Sixteen bytes for a new id.
    fn id(&self) -> [u8; 16];
}

/// The operating system's random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// When the operating system has no random numbers to give.
    fn id(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        if let Err(error) = getrandom::fill(&mut bytes) {
            panic!("the operating system gives no random numbers: {error}");
        }
        bytes
    }
}
