//! Harnesses and checkers shared by the tests that cross crates.
