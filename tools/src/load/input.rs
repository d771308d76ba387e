//! The input: one JSON object a line, each one batch.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use outlast_engine::format::limits::KEY_LEN_MAX;
use serde::Deserialize;

/// A line is no longer than this: a batch of the largest frame, with every byte of it escaped.
const LINE_LEN_MAX: u64 = 128 << 20;

/// One operation of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Gives the key a value.
    Put(String, String),
    /// Takes the key's value away.
    Delete(String),
}

/// One line of the input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadBatch {
    /// How many batches come before it.
    pub number: u64,
    /// What it does, in order.
    pub operations: Vec<Operation>,
}

/// Why a line cannot be loaded. Nothing behind it was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// It is not a batch.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The input ends before the batch at which loading was to begin.
    #[error("the input has only {batches} batches, so loading cannot begin at batch {from}")]
    TooShort {
        /// The batches that it has.
        batches: u64,
        /// Where loading was to begin.
        from: u64,
    },
    /// It cannot be read.
    #[error("line {line} could not be read")]
    Read {
        /// Counted from 1.
        line: u64,
        /// Why.
        source: io::Error,
    },
}

/// The batches of an input, one after the other.
pub struct Batches {
    lines: Box<dyn BufRead + Send>,
    next: u64,
}

impl Batches {
    /// Reads a file, or standard input when its name is `-`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(if path == Path::new("-") {
            Self::read(BufReader::new(io::stdin()))
        } else {
            Self::read(BufReader::with_capacity(1 << 18, File::open(path)?))
        })
    }

    /// Reads from `lines`.
    pub fn read(lines: impl BufRead + Send + 'static) -> Self {
        Self {
            lines: Box::new(lines),
            next: 0,
        }
    }

    /// Skips `batches`, which are not looked at.
    ///
    /// # Errors
    /// When there are not so many, or they cannot be read.
    pub fn skip_batches(&mut self, batches: u64) -> Result<(), InputError> {
        while self.next < batches {
            if self.line()?.is_none() {
                let (batches, from) = (self.next, batches);
                return Err(InputError::TooShort { batches, from });
            }
        }
        Ok(())
    }

    fn line(&mut self) -> Result<Option<Vec<u8>>, InputError> {
        let line = self.next + 1;
        let mut bytes = Vec::new();
        let read = (&mut self.lines)
            .take(LINE_LEN_MAX)
            .read_until(b'\n', &mut bytes);
        match read.map_err(|source| InputError::Read { line, source })? {
            0 => return Ok(None),
            n if n as u64 == LINE_LEN_MAX => {
                let what = format!("it is longer than {LINE_LEN_MAX} bytes");
                return Err(InputError::Line { line, what });
            }
            _ => {}
        }
        self.next = line;
        Ok(Some(bytes))
    }
}

impl Iterator for Batches {
    type Item = Result<LoadBatch, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = match self.line() {
            Ok(bytes) => bytes?,
            Err(error) => return Some(Err(error)),
        };
        let line = self.next;
        let parsed = parse(&bytes).map_err(|what| InputError::Line { line, what });
        Some(parsed.map(|operations| LoadBatch {
            number: line - 1,
            operations,
        }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// The commit's own time, for people; it is not loaded.
    #[serde(rename = "ts_ms", default)]
    _ts_ms: Option<i64>,
    ops: Vec<Vec<String>>,
}

fn parse(bytes: &[u8]) -> Result<Vec<Operation>, String> {
    let line: Line = serde_json::from_slice(bytes).map_err(|error| why(bytes, &error))?;
    line.ops.into_iter().map(operation).collect()
}

/// What is wrong with a line. The parser counts lines from its own beginning, so its own is left
/// out.
fn why(bytes: &[u8], error: &serde_json::Error) -> String {
    if let Err(error) = std::str::from_utf8(bytes) {
        return format!("it is not valid Unicode from byte {}", error.valid_up_to());
    }
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what}, at column {}", error.column())
}

fn operation(words: Vec<String>) -> Result<Operation, String> {
    let operation = match <[String; 3]>::try_from(words) {
        Ok([verb, key, value]) if verb == "put" => Operation::Put(key, value),
        Ok(words) => return Err(not_one(&words)),
        Err(words) => match <[String; 2]>::try_from(words) {
            Ok([verb, key]) if verb == "delete" => Operation::Delete(key),
            Ok(words) => return Err(not_one(&words)),
            Err(words) => return Err(not_one(&words)),
        },
    };
    let (Operation::Put(key, _) | Operation::Delete(key)) = &operation;
    if key.len() > KEY_LEN_MAX {
        let len = key.len();
        return Err(format!("a key of {len} bytes: the limit is {KEY_LEN_MAX}"));
    }
    Ok(operation)
}

fn not_one(words: &[String]) -> String {
    let verb = words.first().map_or("", String::as_str);
    let count = words.len();
    format!(
        "an operation of {count} strings that begins with {verb:?}; it must be \
         [\"put\", key, value] or [\"delete\", key]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(text: &[u8]) -> Vec<Result<LoadBatch, InputError>> {
        Batches::read(io::Cursor::new(text.to_vec())).collect()
    }

    #[test]
    fn a_line_is_a_batch_and_the_last_needs_no_line_feed() {
        let text = br#"{"ts_ms": -5, "ops": [["put", "a", ""], ["delete", "b"]]}
{"ops": []}"#;
        let all: Vec<_> = batches(text).into_iter().map(Result::unwrap).collect();
        let operations = vec![
            Operation::Put("a".into(), String::new()),
            Operation::Delete("b".into()),
        ];
        assert_eq!(
            all,
            [
                LoadBatch {
                    number: 0,
                    operations
                },
                LoadBatch {
                    number: 1,
                    operations: Vec::new()
                }
            ]
        );
    }

    #[test]
    fn what_is_no_batch_is_refused_by_the_number_of_its_line() {
        let long = format!(r#"{{"ops": [["put", "{}", ""]]}}"#, "k".repeat(2049));
        for bad in [
            &b"\xff"[..],
            b"",
            b"{}",
            b"[]",
            b"{\"ops\": [[\"put\", \"a\"]]}",
            b"{\"ops\": [[\"delete\", \"a\", \"b\"]]}",
            b"{\"ops\": [[]]}",
            b"{\"ops\": [[\"drop\", \"a\"]]}",
            b"{\"ops\": [[\"put\", \"a\", 5]]}",
            b"{\"ops\": [[\"put\", \"a\", \"\\ud800\"]]}",
            b"{\"ops\": [[\"put\", \"\xc3\x28\", \"\"]]}",
            b"{\"ops\": [], \"opps\": []}",
            long.as_bytes(),
        ] {
            let text = [b"{\"ops\": []}\n", bad, b"\n"].concat();
            let second = batches(&text).swap_remove(1).unwrap_err();
            assert!(
                second.to_string().starts_with("line 2: "),
                "{bad:?}: {second}"
            );
        }
    }

    #[test]
    fn batches_are_skipped_by_count() {
        let text = b"not looked at\n{\"ops\": []}\n".to_vec();
        let mut two = Batches::read(io::Cursor::new(text.clone()));
        two.skip_batches(1).unwrap();
        assert_eq!(two.next().unwrap().unwrap().number, 1);
        let mut none = Batches::read(io::Cursor::new(text.clone()));
        none.skip_batches(2).unwrap();
        assert!(none.next().is_none());
        let mut short = Batches::read(io::Cursor::new(text));
        assert!(matches!(
            short.skip_batches(3),
            Err(InputError::TooShort {
                batches: 2,
                from: 3
            })
        ));
    }
}
