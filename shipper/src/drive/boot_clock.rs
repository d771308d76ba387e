//! The clock that leases count by: it goes on while the machine is suspended, and never jumps.

use std::time::Duration;

use outlast_proto::MonoTime;
use rustix::time::{ClockId, clock_gettime};

/// The time since this machine was booted.
#[must_use]
pub fn boot_time() -> MonoTime {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    MonoTime::new(Duration::new(seconds, nanos))
}
