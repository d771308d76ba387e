//! Golden scripts: what the protocol does, message by message.
//!
//! Each file under `tests/golden` opens with its goal. Blocks of commands end with `---`, followed
//! by everything that came of them. `OUTLAST_GOLDEN=write` rewrites the files; read the difference.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "scripts are files, and the test reads them"
)]

mod support;

use std::path::{Path, PathBuf};
use std::{env, fs};

use support::script;

/// Scripts that there must be at least, so that a moved folder is noticed.
const SCRIPTS_MIN: usize = 40;

#[test]
fn scripts_do_what_they_say() {
    let rewrite = env::var("OUTLAST_GOLDEN").is_ok_and(|value| value == "write");
    let paths = scripts();
    assert!(paths.len() >= SCRIPTS_MIN, "{} scripts", paths.len());
    let mut wrong = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{} states no goal", path.display());
        let actual = script::run(&path.display().to_string(), &text);
        if rewrite {
            fs::write(&path, actual).unwrap();
        } else if actual != text {
            wrong.push(difference(&path, &text, &actual));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    paths.sort();
    paths
}

/// The first line that differs.
fn difference(path: &Path, expected: &str, actual: &str) -> String {
    let lines = expected
        .lines()
        .chain([""; 1])
        .zip(actual.lines().chain([""; 1]));
    let (number, (expected, actual)) = lines
        .enumerate()
        .find(|(_, (expected, actual))| expected != actual)
        .unwrap_or((0, ("(one is longer)", "")));
    let path = path.display();
    format!(
        "{path}:{}\n  expected: {expected}\n  actual:   {actual}",
        number + 1
    )
}
