//! `word key=value word …` of a script's line.

use std::str::FromStr;
use std::time::Duration;

use outlast_engine::format::{ClusterId, EpochId, Lsn, NodeId};
use outlast_proto::Position;

/// The words of one command behind its name.
pub struct Args<'a> {
    words: Vec<&'a str>,
    line: &'a str,
}

impl<'a> Args<'a> {
    pub fn parse(line: &'a str) -> (&'a str, Self) {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let words = words.collect();
        (name, Self { words, line })
    }

    /// The next word that is no `key=value`.
    pub fn word(&mut self) -> Option<&'a str> {
        let at = self.words.iter().position(|word| !word.contains('='))?;
        Some(self.words.remove(at))
    }

    pub fn need(&mut self) -> &'a str {
        let line = self.line;
        self.word()
            .unwrap_or_else(|| panic!("a word is missing: {line}"))
    }

    pub fn text(&mut self, key: &str) -> Option<&'a str> {
        let at = self.words.iter().position(|word| {
            word.strip_prefix(key)
                .is_some_and(|rest| rest.starts_with('='))
        })?;
        let word = self.words.remove(at);
        Some(&word[key.len() + 1..])
    }

    pub fn get<T: FromStr>(&mut self, key: &str) -> Option<T> {
        let text = self.text(key)?;
        let line = self.line;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{key}={text} does not parse: {line}")),
        )
    }

    pub fn or<T: FromStr>(&mut self, key: &str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    pub fn lsn(&mut self, key: &str) -> Option<Lsn> {
        self.get(key)
    }

    pub fn position(&mut self, key: &str) -> Option<Position> {
        let text = self.text(key)?;
        let (lsn, commit) = text.split_once('#').expect("lsn#commit");
        Some(Position::new(lsn.parse().unwrap(), commit.parse().unwrap()))
    }

    pub fn time(&mut self, key: &str) -> Option<Duration> {
        self.text(key).map(duration)
    }

    pub fn epoch(&mut self, key: &str) -> Option<EpochId> {
        let text = self.text(key)?;
        Some(EpochId(
            [text.strip_prefix('e').unwrap().parse().unwrap(); 16],
        ))
    }

    pub fn node(&mut self, key: &str) -> Option<NodeId> {
        self.text(key).map(node)
    }

    pub fn cluster(&mut self, key: &str) -> Option<ClusterId> {
        Some(ClusterId([self.get(key)?; 16]))
    }

    /// Every word must have been used.
    pub fn done(self) {
        assert!(
            self.words.is_empty(),
            "{:?} mean nothing: {}",
            self.words,
            self.line
        );
    }
}

pub fn node(name: &str) -> NodeId {
    match name {
        "p" => NodeId([0x0a; 16]),
        "s" => NodeId([0x0b; 16]),
        other => NodeId([other.strip_prefix('n').unwrap().parse().unwrap(); 16]),
    }
}

pub fn duration(text: &str) -> Duration {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let value: u64 = digits
        .parse()
        .unwrap_or_else(|_| panic!("no duration: {text}"));
    match &text[digits.len()..] {
        "ms" => Duration::from_millis(value),
        "s" => Duration::from_secs(value),
        "ns" => Duration::from_nanos(value),
        _ => panic!("no duration: {text}"),
    }
}
