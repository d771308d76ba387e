//! A node without its shell: what threads, links and clocks are put around in [`Node`], and what a
//! simulation drives in their stead.
//!
//! [`Node`]: crate::Node

pub use crate::follow::following::{FollowOutput, Following};
pub use crate::follow::jobs::{Done, Job, Round, replay_to};
pub use crate::promise::{fence_of, proven};
pub use crate::promotion::{
    Candidate, Decision, Facts, Promotion, Standing, positions_of, promote, standing_of,
};
pub use crate::roles::{
    Boot, boot, compare_promises, dial_mode, fence, halt, meet, primary_facts, remember, resume,
    role, standby_facts, was_writer,
};
