//! Promises as the log has them: durations are whole milliseconds there.

use std::time::Duration;

use outlast_engine::format::{ProtectionRecord, ProtectionStanding};

use super::policy::{Action, Bound, Policy, Protection, ProtectionFault, Standing};

impl TryFrom<&ProtectionRecord> for Protection {
    type Error = ProtectionFault;

    /// What a record promises.
    fn try_from(record: &ProtectionRecord) -> Result<Self, ProtectionFault> {
        let policy = match record.lease_ms {
            None => Policy::Async,
            Some(lease_ms) => Policy::Bounded(Bound {
                bytes: record.bound_bytes,
                commits: record.bound_commits,
                time: record.bound_ms.map(Duration::from_millis),
                lease: Duration::from_millis(lease_ms),
            }),
        };
        let standing = match record.standing {
            ProtectionStanding::Off => Standing::Off,
            ProtectionStanding::InForce => Standing::InForce,
            ProtectionStanding::Suspended { lasts_ms } => Standing::Suspended {
                lasts: Duration::from_millis(lasts_ms),
            },
            _ => return Err(ProtectionFault::NotKnown),
        };
        let action = if record.refuses {
            Action::Refuse
        } else {
            Action::Stall
        };
        let protection = Self {
            policy,
            action,
            members: record.members.clone(),
            copies: record.copies,
            standing,
        };
        protection.check()?;
        Ok(protection)
    }
}

impl Protection {
    /// The record that promises it. Parts of a millisecond are cut off: no promise gets looser.
    #[must_use]
    pub fn to_record(&self, note: String) -> ProtectionRecord {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let none = ProtectionRecord::unbounded(self.members.clone(), note);
        let standing = match self.standing {
            Standing::Off => ProtectionStanding::Off,
            Standing::InForce => ProtectionStanding::InForce,
            Standing::Suspended { lasts } => ProtectionStanding::Suspended {
                lasts_ms: ms(lasts),
            },
        };
        let Policy::Bounded(bound) = &self.policy else {
            return none;
        };
        ProtectionRecord {
            bound_bytes: bound.bytes,
            bound_commits: bound.commits,
            bound_ms: bound.time.map(ms),
            lease_ms: Some(ms(bound.lease)),
            copies: self.copies,
            standing,
            refuses: self.action == Action::Refuse,
            ..none
        }
    }
}

#[cfg(test)]
mod tests {
    use outlast_engine::format::NodeId;

    use super::*;

    #[test]
    fn a_record_says_what_was_promised_and_one_that_cannot_be_kept_is_a_fault() {
        let bounded = Protection {
            policy: Policy::Bounded(Bound {
                bytes: Some(7),
                commits: None,
                time: Some(Duration::from_millis(50)),
                lease: Duration::from_secs(3),
            }),
            action: Action::Refuse,
            members: vec![NodeId([1; 16])],
            copies: 1,
            standing: Standing::InForce,
        };
        let lasts = Duration::from_secs(1800);
        let suspended = bounded.standing(Standing::Suspended { lasts });
        let none = Protection::none(vec![NodeId([2; 16])]);
        for protection in [bounded.standing(Standing::Off), bounded, suspended, none] {
            let record = protection.to_record("why".to_owned());
            let record = ProtectionRecord::decode(&record.encode()).unwrap();
            assert_eq!(record.note, "why");
            assert_eq!(Protection::try_from(&record), Ok(protection));
        }
        let mut record = Protection::none(Vec::new()).to_record(String::new());
        record.standing = ProtectionStanding::InForce;
        let fault = Protection::try_from(&record).unwrap_err();
        assert_eq!(fault, ProtectionFault::NothingPromised);
    }
}
