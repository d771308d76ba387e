//! What is promised about loss in a drill.

use std::time::Duration;

use bytesize::ByteSize;
use outlast_proto::LEASE_DEFAULT;
use serde::Serialize;

/// What the drill's pair promises: a policy, as `outlast policy set` takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "policy")]
pub enum Promise {
    /// Nothing.
    Async,
    /// No more than this.
    Bounded {
        /// Most bytes of log.
        #[serde(rename = "bound_bytes")]
        bytes: Option<u64>,
        /// Most commits.
        #[serde(rename = "bound_commits")]
        commits: Option<u64>,
        /// Longest span in milliseconds.
        #[serde(rename = "bound_ms")]
        ms: Option<u64>,
        /// How long after the last echo commits may be answered, in milliseconds.
        lease_ms: u64,
    },
    /// Nothing is lost.
    Sync {
        /// How long after the last echo commits may be answered, in milliseconds.
        lease_ms: u64,
    },
}

/// A promise that cannot be meant so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromiseError {
    /// It is no policy.
    #[error("`{0}` is no policy: write async, sync, or bounds such as 100commits, 64KiB or 50ms")]
    Unknown(String),
    /// A bound twice.
    #[error("`{0}` bounds the same twice")]
    Twice(String),
}

/// The limits that a promise sets, where it sets any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Limits {
    /// Most bytes of log.
    pub bytes: Option<u64>,
    /// Most commits.
    pub commits: Option<u64>,
    /// Longest span in milliseconds.
    pub span_ms: Option<u64>,
}

impl Promise {
    /// Reads `async`, `sync`, or bounds joined by commas: `100commits`, `64KiB`, `50ms`.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn read(text: &str, lease: Option<Duration>) -> Result<Self, PromiseError> {
        let lease_ms = as_ms(lease.unwrap_or(LEASE_DEFAULT));
        match text {
            "async" => return Ok(Self::Async),
            "sync" => return Ok(Self::Sync { lease_ms }),
            _ => {}
        }
        let mut limits = Limits::default();
        for part in text.split(',') {
            let slot = if let Some(number) = part.strip_suffix("commits") {
                (&mut limits.commits, number.trim().parse().ok())
            } else if let Ok(size) = part.parse::<ByteSize>()
                && part.ends_with('B')
            {
                (&mut limits.bytes, Some(size.as_u64()))
            } else {
                let time = humantime::parse_duration(part).ok();
                (&mut limits.span_ms, time.map(as_ms))
            };
            let (place, Some(value)) = slot else {
                return Err(PromiseError::Unknown(text.to_owned()));
            };
            if place.replace(value).is_some() {
                return Err(PromiseError::Twice(text.to_owned()));
            }
        }
        let Limits {
            bytes,
            commits,
            span_ms: ms,
        } = limits;
        Ok(Self::Bounded {
            bytes,
            commits,
            ms,
            lease_ms,
        })
    }

    /// What it allows to be lost; `None` where nothing is promised.
    #[must_use]
    pub const fn limits(&self) -> Option<Limits> {
        match *self {
            Self::Async => None,
            Self::Sync { .. } => Some(Limits {
                bytes: Some(0),
                commits: Some(0),
                span_ms: None,
            }),
            Self::Bounded {
                bytes, commits, ms, ..
            } => Some(Limits {
                bytes,
                commits,
                span_ms: ms,
            }),
        }
    }

    /// How long after the last echo commits may be answered.
    #[must_use]
    pub const fn lease(&self) -> Option<Duration> {
        match self {
            Self::Async => None,
            Self::Bounded { lease_ms, .. } | Self::Sync { lease_ms } => {
                Some(Duration::from_millis(*lease_ms))
            }
        }
    }

    /// What follows `outlast policy set`.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let lease = |ms: u64| ["--lease".to_owned(), format!("{ms}ms")];
        match *self {
            Self::Async => vec!["async".to_owned()],
            Self::Sync { lease_ms } => [vec!["sync".to_owned()], lease(lease_ms).to_vec()].concat(),
            Self::Bounded {
                bytes,
                commits,
                ms,
                lease_ms,
            } => {
                let mut all = vec!["bounded".to_owned()];
                let parts = [
                    ("--bytes", bytes.map(|bytes| format!("{bytes}B"))),
                    ("--commits", commits.map(|commits| commits.to_string())),
                    ("--time", ms.map(|ms| format!("{ms}ms"))),
                ];
                for (flag, value) in parts {
                    all.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
                }
                all.extend(lease(lease_ms));
                all
            }
        }
    }

    /// What an operator accepts to lose under it, as `--accept-loss` takes it.
    #[must_use]
    pub fn accepted(&self) -> String {
        match self.limits() {
            Some(Limits {
                commits: Some(commits),
                ..
            }) => commits.to_string(),
            Some(Limits {
                bytes: Some(bytes), ..
            }) => format!("{bytes}B"),
            _ => "unbounded".to_owned(),
        }
    }
}

/// As it is read.
impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Async => f.write_str("async"),
            Self::Sync { .. } => f.write_str("sync"),
            Self::Bounded {
                bytes, commits, ms, ..
            } => {
                let parts = [
                    commits.map(|commits| format!("{commits}commits")),
                    bytes.map(|bytes| format!("{bytes}B")),
                    ms.map(|ms| format!("{ms}ms")),
                ];
                f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(","))
            }
        }
    }
}

fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_reads_as_it_is_written() {
        for text in [
            "async",
            "sync",
            "0commits",
            "100commits,65536B,50ms",
            "1000ms",
        ] {
            assert_eq!(Promise::read(text, None).unwrap().to_string(), text);
        }
        let bounded = Promise::read("64KiB,1s", Some(Duration::from_millis(200))).unwrap();
        assert_eq!(
            bounded.arguments(),
            [
                "bounded", "--bytes", "65536B", "--time", "1000ms", "--lease", "200ms"
            ]
        );
        assert_eq!(bounded.accepted(), "65536B");
        assert_eq!(
            Promise::read("sync", None).unwrap().arguments()[2],
            "3000ms"
        );
        assert_eq!(Promise::read("50ms", None).unwrap().accepted(), "unbounded");
        for text in [
            "",
            "tight",
            "5",
            "commits",
            "1commits,2commits",
            "5ms,",
            "5 parsecs",
        ] {
            assert!(Promise::read(text, None).is_err(), "{text}");
        }
    }
}
