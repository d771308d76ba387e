//! Tells the tests whether there are real histories to load, so that those that need them are
//! ignored, and not passed, where there are none.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=OUTLAST_HISTORIES");
    println!("cargo::rustc-check-cfg=cfg(histories)");
    if std::env::var_os("OUTLAST_HISTORIES").is_some_and(|folder| !folder.is_empty()) {
        println!("cargo::rustc-cfg=histories");
    }
}
