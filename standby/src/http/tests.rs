//! Over real sockets on loopback, from nodes that answer, say nothing, or are in trouble.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Instant;

use super::*;
use crate::Node;
use crate::status::{ProtectionState, Role, Status};
use crate::support::{Pair, put, until};

/// What a server said: the code and the body.
fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or((&said, ""));
    let code = head
        .split(' ')
        .nth(1)
        .map_or(0, |code| code.parse().unwrap());
    (code, body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A server over what a node said, after `change`.
fn serving(node: &Node, change: impl Fn(&mut Status) + Send + Sync + 'static) -> HttpServer {
    let (status, metrics) = (node.status(), node.store().metrics());
    let source = move || {
        let mut status = status.clone();
        change(&mut status);
        let metrics = metrics.clone();
        Some(Look { status, metrics })
    };
    HttpServer::start(loopback(), Arc::new(source)).unwrap()
}

#[test]
fn a_running_pair_says_how_it_is() {
    let pair = Pair::new();
    let with_http = |name| {
        let change = |config: &mut crate::config::NodeConfig| config.http = Some(loopback());
        Node::start_with(&pair.path(name), change).unwrap()
    };
    let (a, b) = (with_http("a"), with_http("b"));
    put(&a, "one", outlast_engine::Level::Applied).unwrap();
    let address = |node: &Node| node.status().http.unwrap().parse().unwrap();
    let (a_at, b_at) = (address(&a), address(&b));
    until("both are ready", || {
        get(a_at, "/readyz").0 == 200 && get(b_at, "/readyz?role=standby").0 == 200
    });
    assert_eq!(get(a_at, "/readyz?role=primary&max_lag_ms=60000").0, 200);
    assert_eq!(get(a_at, "/readyz?role=standby").0, 503);
    assert_eq!(get(b_at, "/readyz?role=primary").0, 503);
    assert_eq!(get(a_at, "/readyz?role=king").0, 400);
    assert_eq!(get(a_at, "/healthz"), (200, "ok\n".to_owned()));
    let (code, body) = get(a_at, "/v1/status");
    assert_eq!(code, 200);
    let said: Status = serde_json::from_str(&body).unwrap();
    assert_eq!((said.role, said.node), (Role::Primary, a.status().node));
    let (code, body) = get(b_at, "/metrics");
    assert_eq!(code, 200);
    assert!(body.contains("outlast_role{role=\"standby\"} 1"), "{body}");
    assert!(body.contains("outlast_unprotected 1"), "{body}");
    assert_eq!(get(a_at, "/").0, 404);
    let refused = ask(a_at, "POST /v1/status HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(refused.0, 405);
    assert_eq!(
        ask(a_at, "HEAD /healthz HTTP/1.1\r\nhost: a\r\n\r\n"),
        (200, String::new())
    );
    let long = "x".repeat(HEAD_LEN_MAX * 2);
    assert_eq!(get(a_at, &format!("/healthz?{long}")).0 / 100, 4);
    a.stop().unwrap();
    assert!(TcpStream::connect(a_at).is_err(), "it listens no longer");
}

#[test]
fn every_family_of_figures_is_said_once_with_its_kind() {
    let (_pair, a, _b) = Pair::met();
    let server = serving(&a, |_| {});
    let (_, body) = get(server.address(), "/metrics");
    let mut families = BTreeSet::new();
    let mut samples = BTreeSet::new();
    for line in body.lines() {
        let parts: Vec<_> = line.split(' ').collect();
        match parts[..] {
            ["#", "TYPE", name, kind] => {
                assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
                assert!(families.insert(name.to_owned()), "{name} twice");
            }
            ["#", "HELP", ..] => {}
            [sample, value] => {
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(samples.insert(sample.to_owned()), "{sample} twice");
                let name = sample.split('{').next().unwrap();
                let ends = ["", "_bucket", "_sum", "_count"];
                let known = ends
                    .iter()
                    .filter_map(|end| name.strip_suffix(end))
                    .any(|family| families.contains(family));
                assert!(known, "{line} belongs to nothing");
            }
            _ => panic!("{line}"),
        }
    }
    for name in [
        "outlast_exposure_commits",
        "outlast_unprotected_seconds_total",
        "outlast_answers",
    ] {
        assert!(families.contains(name), "{name} is not among {families:?}");
    }
}

#[test]
fn a_node_in_trouble_is_not_ready_and_says_why() {
    type Change = fn(&mut Status);
    let lease_out: Change = |status| {
        let protection = status.protection.as_mut().unwrap();
        (protection.state, protection.lease_out) = (ProtectionState::Stalled, true);
    };
    let suspended: Change = |status| {
        let protection = status.protection.as_mut().unwrap();
        (protection.state, protection.lease_out) = (ProtectionState::Suspended, true);
    };
    let (_pair, a, _b) = Pair::met();
    let cases: [(Change, u16, &str); 7] = [
        (|_| {}, 200, "ready"),
        (lease_out, 503, "the lease"),
        // An operator wants it to go on alone.
        (suspended, 200, "ready"),
        (
            |status| status.role = Role::WaitingForPeer,
            503,
            "waits to hear",
        ),
        (
            |status| status.role = Role::Fenced { term: 3 },
            503,
            "fenced by term 3",
        ),
        (
            |status| {
                status.role = Role::Poisoned {
                    reason: "fsync".into(),
                }
            },
            503,
            "its disk failed",
        ),
        (
            |status| status.role = Role::Conflict { what: "two".into() },
            503,
            "contradict",
        ),
    ];
    for (change, code, why) in cases {
        let server = serving(&a, change);
        let said = get(server.address(), "/readyz");
        assert!(said.0 == code && said.1.contains(why), "{said:?}");
        assert_eq!(get(server.address(), "/healthz").0, 200);
    }
}

#[test]
fn it_answers_while_the_node_hangs_and_ends_all_the_same() {
    let (release, held) = mpsc::channel::<()>();
    let held = parking_lot::Mutex::new(held);
    let source = move || {
        // Until the test is over: as a thread that waits for a disk.
        let _ = held.lock().recv();
        None
    };
    let server = HttpServer::start(loopback(), Arc::new(source)).unwrap();
    let address = server.address();
    for _ in 0..2 {
        let (code, why) = get(address, "/readyz");
        assert!(code == 503 && why.contains("did not say"), "{code} {why}");
    }
    assert_eq!(get(address, "/healthz").0, 200);
    assert_eq!(get(address, "/v1/status").0, 503);
    let (code, figures) = get(address, "/metrics");
    assert!(
        code == 200 && figures.contains("outlast_answers 0"),
        "{figures}"
    );
    let began = Instant::now();
    drop(server);
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(release);
}

#[test]
fn whoever_says_nothing_keeps_nobody_out_for_long() {
    let (_pair, a, _b) = Pair::met();
    let server = serving(&a, |_| {});
    let address = server.address();
    let silent: Vec<_> = (0..CONNECTIONS_MAX + 5)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let began = Instant::now();
    assert_eq!(get(address, "/healthz").0, 200);
    assert!(began.elapsed() < CONNECTION_TIMEOUT * 3);
    drop(silent);
}
