//! The versions that were chosen for their faults' sake, and the one cryptographic library.

use std::collections::BTreeMap;
use std::path::Path;

type Version = (u64, u64, u64);

fn locked() -> BTreeMap<String, Vec<Version>> {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let text = std::fs::read_to_string(lock).unwrap();
    let lock: toml::Table = toml::from_str(&text).unwrap();
    let mut packages = BTreeMap::<_, Vec<_>>::new();
    for package in lock["package"].as_array().unwrap() {
        let field = |name: &str| package[name].as_str().unwrap().to_owned();
        let release = field("version");
        let numbers = release.split(['-', '+']).next().unwrap().split('.');
        let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
        let version = (numbers[0], numbers[1], numbers[2]);
        packages.entry(field("name")).or_default().push(version);
    }
    packages
}

#[test]
fn no_version_below_its_floor_is_locked() {
    let locked = locked();
    for (name, floor) in [
        // Below, a reader that lags kills its connection, and acknowledged bytes are not counted.
        ("quinn-proto", (0, 11, 18)),
        ("rustls", (0, 23, 18)),
        ("rustls-webpki", (0, 103, 13)),
        ("bytes", (1, 11, 1)),
        ("ring", (0, 17, 12)),
        ("tokio", (1, 44, 2)),
        ("memmap2", (0, 9, 11)),
        ("crossbeam-epoch", (0, 9, 20)),
    ] {
        let versions = &locked[name];
        assert!(
            versions.iter().all(|version| *version >= floor),
            "{name} {versions:?} below {floor:?}"
        );
    }
}

#[test]
fn ring_is_the_only_cryptographic_library() {
    let locked = locked();
    for name in [
        "aws-lc-rs",
        "aws-lc-sys",
        "openssl",
        "openssl-sys",
        "native-tls",
    ] {
        assert!(!locked.contains_key(name), "{name} is locked");
    }
    assert!(locked.contains_key("ring"));
}

#[test]
fn quinn_and_its_parts_are_there_once() {
    let locked = locked();
    for name in ["quinn", "quinn-proto", "quinn-udp", "rustls", "ring"] {
        assert_eq!(locked[name].len(), 1, "{name} {:?}", locked[name]);
    }
}
