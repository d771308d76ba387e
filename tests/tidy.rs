//! Style and documents, kept as a test: what a reader would trip over fails here.

// The helpers are part of the tests: what they did not expect fails the test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const COLUMNS_MAX: usize = 100;

#[test]
fn no_line_of_code_is_too_wide() {
    let mut wide = Vec::new();
    for file in files(&["rs"]) {
        for (number, line) in numbered(&file) {
            let columns = line.chars().count();
            // A text in quotes is not broken by the formatter either.
            let text = line.contains('"') || line.ends_with('\\');
            if columns > COLUMNS_MAX && !text {
                wide.push(format!("{}:{number}: {columns} columns", file.display()));
            }
        }
    }
    assert!(
        wide.is_empty(),
        "at most {COLUMNS_MAX}:\n{}",
        wide.join("\n")
    );
}

#[test]
fn nothing_is_left_for_later() {
    // In two parts, so that this file does not name them itself.
    let marks = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")].map(|(a, b)| format!("{a}{b}"));
    let mut left = Vec::new();
    for file in files(&["rs", "md", "toml"]) {
        for (number, line) in numbered(&file) {
            let mut words = line.split(|c: char| !c.is_alphanumeric());
            if words.any(|word| marks.iter().any(|mark| mark == word)) {
                left.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(left.is_empty(), "do it or drop it:\n{}", left.join("\n"));
}

#[test]
fn every_document_has_one_title() {
    for file in files(&["md"]) {
        let titles = prose(&file).filter(|line| line.starts_with("# ")).count();
        assert_eq!(titles, 1, "{}", file.display());
    }
}

#[test]
fn links_between_documents_resolve() {
    let mut checked = 0;
    for file in files(&["md"]) {
        for line in prose(&file) {
            for rest in line.split("](").skip(1) {
                let target = rest.split(')').next().unwrap();
                let path = target.split('#').next().unwrap();
                if path.is_empty() || path.contains("://") {
                    continue;
                }
                let target = file.parent().unwrap().join(path);
                assert!(target.exists(), "{}: no {path}", file.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 5, "only {checked} links were found");
}

#[test]
fn commands_that_documents_name_exist() {
    let commands = subcommands(&[]);
    assert!(commands.contains("serve"), "{commands:?}");
    let mut checked = 0;
    for file in files(&["md"]) {
        for code in code(&file) {
            let words: Vec<&str> = code.split_whitespace().collect();
            for (at, _) in words
                .iter()
                .enumerate()
                .filter(|(_, word)| is_outlast(word))
            {
                let Some(command) = words.get(at + 1).and_then(|word| plain(word)) else {
                    continue;
                };
                let named = format!("{}: outlast {command}", file.display());
                assert!(commands.contains(&command), "{named} does not exist");
                checked += 1;
                let below = subcommands(&[&command]);
                let Some(next) = words.get(at + 2).and_then(|word| plain(word)) else {
                    continue;
                };
                assert!(
                    below.is_empty() || below.contains(&next),
                    "{named} {next} does not exist"
                );
            }
        }
    }
    assert!(checked > 20, "only {checked} commands were found");
}

fn is_outlast(word: &str) -> bool {
    word.trim_start_matches(['"', '$', '(']) == "outlast"
}

/// A word as a command line's, without what encloses it; none for an option or a sign.
fn plain(word: &str) -> Option<String> {
    let word = word.trim_end_matches(['"', ')', '`', ':', ',', '.']);
    let letters = |c: char| c.is_ascii_lowercase() || c == '-';
    (word.starts_with(|c: char| c.is_ascii_lowercase()) && word.chars().all(letters))
        .then(|| word.to_owned())
}

/// The subcommands that the help of a command lists.
fn subcommands(command: &[&str]) -> BTreeSet<String> {
    let mut outlast = Command::new(env!("CARGO_BIN_EXE_outlast"));
    let help = outlast.args(command).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// What stands in code blocks, by line, and between backticks.
fn code(file: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for (_, line) in numbered(file) {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if inside {
            found.push(line);
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The lines of a document outside of code blocks.
fn prose(file: &Path) -> impl Iterator<Item = String> {
    let mut inside = false;
    numbered(file).into_iter().filter_map(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        (!inside && !fence).then_some(line)
    })
}

fn numbered(file: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.to_owned()))
        .collect()
}

/// The project's files with one of these extensions.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap_or_default();
            if path.is_dir() && !path.is_symlink() {
                if name != "target" && !name.starts_with('.') {
                    dirs.push(path);
                }
            } else if let Some(extension) = path.extension().and_then(|e| e.to_str())
                && extensions.contains(&extension)
            {
                found.push(path);
            }
        }
    }
    assert!(
        !found.is_empty(),
        "no {extensions:?} under {}",
        root.display()
    );
    found.sort_unstable();
    found
}
