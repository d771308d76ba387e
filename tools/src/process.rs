//! What a process has used so far, its own threads included, from `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

use crate::machine::{kibibytes, value_of};

/// What a process has used since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in its own code and in the kernel for it.
    pub cpu: Duration,
    /// The most memory that it ever had resident.
    pub peak_memory_bytes: u64,
}

/// What process `pid` has used so far. An error if it does not run or may not be looked at.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/{pid}/stat reads {stat:?}"),
        )
    })?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Usage {
        cpu: Duration::from_millis(ticks.saturating_mul(1000) / per_second),
        peak_memory_bytes: kibibytes(value_of(&status, "VmHWM")),
    })
}

/// User and system time. The name before them may hold blanks and parentheses of its own.
fn cpu_ticks(stat: &str) -> Option<u64> {
    const USER: usize = 11;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(USER);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "71 (a) b (c) S 1 71 71 0 -1 4194304 1 2 3 4 250 50 7 8 20 0 1 0 99 0 0";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("71 (x) S 1"), None);
    }

    #[test]
    fn work_shows_as_processor_time() {
        let began = usage(std::process::id()).unwrap();
        assert!(began.peak_memory_bytes > 100_000, "{began:?}");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while usage(std::process::id()).unwrap().cpu < began.cpu + Duration::from_millis(30) {
            assert!(
                std::time::Instant::now() < deadline,
                "no processor time counted"
            );
        }
    }

    #[test]
    fn a_process_that_does_not_run_is_an_error() {
        assert_eq!(usage(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
