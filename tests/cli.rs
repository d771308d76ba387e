//! What scripts may rely on when they start the `outlast` binary: help texts, exit codes, forms of
//! output, and a relay that is steered while it runs.

// The helpers are part of the tests: what they did not expect fails the test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(20);

fn outlast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    for variable in [
        "OUTLAST_DIR",
        "OUTLAST_CONFIG",
        "OUTLAST_OUTPUT",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    outlast()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("outlast starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("stdout is UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("stderr is UTF-8")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn every_command_has_a_help_text() {
    let commands: [&[&str]; 9] = [
        &[],
        &["check"],
        &["repair"],
        &["checkpoint"],
        &["restore"],
        &["relay"],
        &["bench"],
        &["bench", "floors"],
        &["bench", "compare"],
    ];
    for command in commands {
        let output = run(&[command, &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        let name = [&["Usage: outlast"], command].concat().join(" ");
        assert!(
            stdout(&output).contains(&name),
            "{command:?}: {}",
            stdout(&output)
        );
        assert!(
            stdout(&output).contains("--output"),
            "{command:?} takes the global options"
        );
        assert!(
            !stdout(&output).contains('\u{1b}'),
            "{command:?} has colours in a pipe"
        );
        assert_eq!(stderr(&output), "");
    }
    assert!(
        stdout(&run(&["--help"])).contains("4 refused"),
        "the exit codes are listed"
    );
    assert!(stdout(&run(&["--version"])).starts_with("outlast "));
}

#[test]
fn a_command_line_that_cannot_be_meant_ends_with_2() {
    let wrong: [&[&str]; 9] = [
        &[],
        &["no-such-command"],
        &["relay"],
        &["relay", "--to", "nowhere"],
        &["relay", "--to", "127.0.0.1:1", "--loss", "5"],
        &["relay", "--to", "127.0.0.1:1", "--delay", "sideways=5ms"],
        &["bench", "floors", "--threads", "0"],
        &["bench", "floors", "-o", "xml"],
        &["bench", "compare", "only-one.json"],
    ];
    for arguments in wrong {
        let output = run(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_node_with_a_peer_is_not_made_before_it_is_said_how_much_may_be_lost() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a");
    let init = |rest: &[&str]| {
        let dir = dir.to_str().unwrap();
        run(&[&["init", "--dir", dir, "--name", "a", "--peer", "b"], rest].concat())
    };
    for (rest, why) in [
        (&[][..], "how much may be lost"),
        (&["--commits", "5"], "--policy bounded"),
        (&["--policy", "bounded"], "--commits, --bytes or --time"),
        (&["--policy", "sync", "--commits", "5"], "bounded"),
        (&["--policy", "async", "--lease", "3s"], "no lease"),
        (&["--policy", "sync", "--lease", "1s"], "2s or more"),
        (&["--policy", "some"], "possible values"),
    ] {
        let output = init(rest);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{rest:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(why),
            "{rest:?}: {}",
            stderr(&output)
        );
        assert!(!dir.exists(), "{rest:?} left something behind");
    }
    let bounded = "--policy bounded --commits 5 --time 50ms --lease 2s --action refuse";
    let output = init(&bounded.split(' ').collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("OFF until"), "{}", stdout(&output));
    let config = fs::read_to_string(dir.join("node.toml")).unwrap();
    for said in ["\"bounded\"", "commits = 5", "\"50ms\"", "\"2s\"", "refuse"] {
        assert!(config.contains(said), "{said}: {config}");
    }
}

#[test]
fn errors_say_what_why_and_what_next() {
    let output = run(&[
        "bench",
        "compare",
        "/does/not/exist.json",
        "/nor/does/this.json",
    ]);
    assert_eq!(output.status.code(), Some(2));
    let lines: Vec<_> = stderr(&output).lines().collect();
    assert!(
        lines[0].starts_with("error: ") && lines[0].contains("/does/not/exist.json"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("caused by: "), "{lines:?}");
    assert!(lines[2].starts_with("hint: "), "{lines:?}");

    let output = run(&["bench", "floors", "--dir", "/does/not/exist"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/does/not/exist"));

    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["relay", "--to", "127.0.0.1:1", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address) && stderr(&output).contains("--listen"));
}

#[test]
fn floors_can_be_read_by_programs_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let config = dir.path().join("outlast.toml");
    fs::write(&config, format!("dir = {:?}\n", disk.to_str().unwrap())).unwrap();
    let floors = [
        "bench",
        "floors",
        "--time",
        "20ms",
        "--file-size",
        "1MiB",
        "--threads",
        "2",
        "--config",
    ];
    let floors = [floors.as_slice(), &[config.to_str().unwrap()]].concat();

    let pretty = run(&[floors.as_slice(), &["-o", "json"]].concat());
    assert_eq!(pretty.status.code(), Some(0), "{}", stderr(&pretty));
    let report = json(stdout(&pretty));
    assert_eq!(report["schema"], 1);
    assert_eq!(report["report"], "floors");
    assert_eq!(
        report["settings"]["dir"],
        disk.to_str().unwrap(),
        "the configuration names it"
    );
    let first = &report["floors"]["writes"][0];
    assert!(first["latency"]["p50_us"].as_f64() > Some(0.0), "{first}");
    assert_eq!(
        fs::read_dir(&disk).unwrap().count(),
        0,
        "nothing is left behind"
    );

    let line = run(&[floors.as_slice(), &["-o", "jsonl"]].concat());
    assert_eq!(stdout(&line).lines().count(), 1);
    let table = run(&floors);
    assert!(stdout(&table).contains("p99 us") && stdout(&table).contains("group commit"));

    let (a, b) = (dir.path().join("a.json"), dir.path().join("b.json"));
    fs::write(&a, stdout(&pretty)).unwrap();
    fs::write(&b, stdout(&pretty)).unwrap();
    let compare = ["bench", "compare", a.to_str().unwrap(), b.to_str().unwrap()];
    let same = json(stdout(
        &run(&[compare.as_slice(), &["-o", "json"]].concat()),
    ));
    assert_eq!(same["differences"], Value::Array(Vec::new()));
    let rows = same["rows"].as_array().unwrap();
    assert!(
        rows.len() > 10 && rows.iter().all(|row| row["verdict"] == "same"),
        "{rows:?}"
    );

    let mut other = report;
    other["machine"]["cores"] = 99.into();
    other["floors"]["writes"][0]["latency"]["p50_us"] = 1e9.into();
    fs::write(&b, other.to_string()).unwrap();
    let table = run(&compare);
    let text = stdout(&table);
    assert!(
        text.contains("machine.cores") && text.contains("worse"),
        "{text}"
    );

    other["schema"] = 2.into();
    fs::write(&b, other.to_string()).unwrap();
    assert_eq!(run(&compare).status.code(), Some(2));
}

#[test]
fn a_configuration_that_cannot_be_meant_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("outlast.toml");
    let config = config.to_str().unwrap();
    let floors = ["bench", "floors", "--time", "1ms", "--config", config];
    assert_eq!(run(&floors).status.code(), Some(2), "it does not exist");
    fs::write(config, "dri = \"/tmp\"\n").unwrap();
    let output = run(&floors);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("dri"), "{}", stderr(&output));
}

/// A running `outlast relay`; killed when dropped.
struct Relay {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    address: SocketAddr,
}

impl Relay {
    fn to(server: &UdpSocket, options: &[&str]) -> Self {
        let to = server.local_addr().unwrap().to_string();
        let mut child = outlast()
            .args(["relay", "-o", "json", "--to", &to])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("outlast starts");
        let stdin = child.stdin.take();
        let stdout = lines(child.stdout.take().unwrap());
        let first = json(&stdout.recv_timeout(DEADLINE).unwrap());
        assert_eq!(
            (&first["event"], &first["schema"]),
            (&"listening".into(), &1.into())
        );
        let address = first["address"].as_str().unwrap().parse().unwrap();
        Self {
            child,
            stdin,
            stdout,
            address,
        }
    }

    fn answer(&mut self) -> Value {
        json(
            &self
                .stdout
                .recv_timeout(DEADLINE)
                .expect("an answer before the deadline"),
        )
    }

    fn tell(&mut self, command: &str) -> Value {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
        self.answer()
    }

    /// Asks until the statistics say so.
    fn wait_until(&mut self, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let stats = self.tell("stats")["stats"].take();
            if condition(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "still {stats}");
        }
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the relay still runs");
            std::thread::yield_now();
        }
    }
}

/// The lines of a pipe, so that one can wait for them with a deadline.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (lines, received) = mpsc::channel();
    std::thread::spawn(move || {
        let read = BufReader::new(pipe).lines().map_while(Result::ok);
        read.take_while(|line| lines.send(line.clone()).is_ok())
            .for_each(drop);
    });
    received
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let (bytes, from) = socket
        .recv_from(&mut buffer)
        .expect("a datagram before the deadline");
    (buffer[..bytes].to_vec(), from)
}

fn nothing_has_arrived(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    let arrived = socket.recv_from(&mut [0; 64]).is_ok();
    socket.set_nonblocking(false).unwrap();
    !arrived
}

/// A relay, its two ends, and the address from which the server sees the client.
fn connected(options: &[&str]) -> (Relay, UdpSocket, UdpSocket, SocketAddr) {
    let (server, client) = (socket(), socket());
    let relay = Relay::to(&server, options);
    client.send_to(b"hello", relay.address).unwrap();
    let (bytes, from) = receive(&server);
    assert_eq!(bytes, b"hello");
    (relay, server, client, from)
}

#[test]
fn all_is_lost_one_way_and_nothing_the_other() {
    let (mut relay, server, client, upstream) = connected(&[]);
    let answer = relay.tell("loss up=100%,down=0%");
    assert_eq!(answer["event"], "changed");
    assert_eq!(answer["lines"]["up"]["loss_percent"], 100.0);
    assert_eq!(answer["lines"]["down"]["loss_percent"], 0.0);
    for _ in 0..50 {
        client.send_to(b"up", relay.address).unwrap();
        server.send_to(b"down", upstream).unwrap();
        assert_eq!(receive(&client).0, b"down");
    }
    let stats = relay.wait_until(|stats| stats["up"]["offered"] == 51);
    assert_eq!(
        (&stats["up"]["lost"], &stats["down"]["lost"]),
        (&50.into(), &0.into())
    );
    assert!(nothing_has_arrived(&server));
}

#[test]
fn a_cut_is_healed() {
    let (mut relay, server, client, upstream) = connected(&[]);
    assert_eq!(relay.tell("cut both")["lines"]["up"]["cut"], true);
    client.send_to(b"up", relay.address).unwrap();
    server.send_to(b"down", upstream).unwrap();
    relay.wait_until(|stats| stats["up"]["cut"] == 1 && stats["down"]["cut"] == 1);
    assert!(nothing_has_arrived(&server) && nothing_has_arrived(&client));
    assert_eq!(relay.tell("heal")["lines"]["up"]["cut"], false);
    client.send_to(b"up again", relay.address).unwrap();
    assert_eq!(receive(&server).0, b"up again");
    server.send_to(b"down again", upstream).unwrap();
    assert_eq!(receive(&client).0, b"down again");
}

#[test]
fn copies_are_counted() {
    let (mut relay, server, client, _) = connected(&[]);
    relay.tell("duplicate up=100%");
    for number in 0..20 {
        client.send_to(&[number], relay.address).unwrap();
        assert_eq!(
            (receive(&server).0, receive(&server).0),
            (vec![number], vec![number])
        );
    }
    let stats = relay.wait_until(|stats| stats["up"]["delivered"] == 41);
    assert_eq!(stats["up"]["duplicated"], 20);
    assert_eq!(stats["kernel_dropped"], 0);
}

#[test]
fn the_same_seed_gives_the_same_fates() {
    let survivors = |seed: &str| {
        let (server, client) = (socket(), socket());
        let mut relay = Relay::to(&server, &["--loss", "up=40%", "--seed", seed]);
        for number in 0..100 {
            client.send_to(&[number], relay.address).unwrap();
        }
        relay.wait_until(|stats| stats["up"]["offered"] == 100);
        relay.tell("loss 0%");
        client.send_to(b"the end", relay.address).unwrap();
        let numbers = std::iter::from_fn(|| match receive(&server).0.as_slice() {
            [number] => Some(*number),
            _ => None,
        });
        numbers.collect::<BTreeSet<u8>>()
    };
    let one = survivors("1");
    assert!((30..90).contains(&one.len()), "{}", one.len());
    assert_eq!(one, survivors("1"));
    assert_ne!(one, survivors("2"));
}

#[test]
fn what_is_no_command_is_answered_and_changes_nothing() {
    let (mut relay, server, client, _) = connected(&["--delay", "up=1ms"]);
    let answer = relay.tell("explode");
    assert_eq!(answer["event"], "error");
    assert!(
        answer["message"].as_str().unwrap().contains("cut"),
        "{answer}"
    );
    assert_eq!(relay.tell("heal")["lines"]["up"]["delay_us"], 1000);
    client.send_to(b"still here", relay.address).unwrap();
    assert_eq!(receive(&server).0, b"still here");
}

#[test]
fn a_relay_outlives_its_stdin_until_it_is_terminated() {
    let (mut relay, server, client, _) = connected(&["-v"]);
    drop(relay.stdin.take());
    let told = BufReader::new(relay.child.stderr.take().unwrap()).lines();
    let noticed = told
        .map(Result::unwrap)
        .find(|line| line.contains("stdin has ended"));
    assert!(
        noticed.is_some_and(|line| !line.contains('\u{1b}')),
        "told, and without colours"
    );
    for number in 0..100 {
        client.send_to(&[number], relay.address).unwrap();
        assert_eq!(receive(&server).0, [number]);
    }
    relay.terminate();
    assert_eq!(
        relay.answer()["event"],
        "stats",
        "the statistics are its last words"
    );
    assert_eq!(relay.end().code(), Some(0));
}

#[test]
fn a_relay_ends_on_quit_or_with_its_stdin_if_it_was_told_to() {
    let (mut relay, ..) = connected(&["--until-eof"]);
    drop(relay.stdin.take());
    assert_eq!(relay.answer()["event"], "stats");
    assert_eq!(relay.end().code(), Some(0));

    let (mut relay, ..) = connected(&[]);
    assert_eq!(relay.tell("quit")["stats"]["up"]["delivered"], 1);
    assert_eq!(relay.end().code(), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let server = socket();
    let mut child = outlast()
        .args(["relay", "--to", &server.local_addr().unwrap().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut first).unwrap();
    first
        .trim()
        .parse::<SocketAddr>()
        .expect("the first line is the address");
    drop(reader);
    writeln!(child.stdin.as_mut().unwrap(), "stats").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

/// Makes a node in `dir` and opens its store, with twenty records over two segments.
fn filled_node(dir: &std::path::Path) -> outlast_engine::Store {
    let at = ["--dir", dir.to_str().unwrap()];
    let init = ["init", "--name", "a", "--segment-size", "64KiB"];
    let made = run(&[&init[..], &at].concat());
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let store = outlast_engine::Store::open(dir, outlast_engine::Config::default()).unwrap();
    store
        .begin_epoch(outlast_engine::EpochReason::Init, "")
        .unwrap();
    let keyspace = store.keyspace("default").unwrap();
    for n in 0..20 {
        let mut batch = outlast_engine::Batch::new();
        batch
            .put(&keyspace, format!("key-{n}"), vec![1; 5000])
            .unwrap();
        let options = outlast_engine::CommitOptions::default();
        store.commit(batch, options).unwrap();
    }
    store
}

#[test]
fn dump_shows_a_log_and_names_the_first_byte_that_does_not_hold() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let at = ["--dir", node.to_str().unwrap()];
    let here = |arguments: &[&str]| run(&[arguments, &at].concat());
    let store = filled_node(&node);

    // While a process has the store open and locked.
    let sound = here(&["dump", "--records", "-o", "jsonl"]);
    assert_eq!(sound.status.code(), Some(0), "{}", stderr(&sound));
    let lines: Vec<Value> = stdout(&sound).lines().map(json).collect();
    let records = |line: &&Value| line["type"] == "record";
    assert_eq!(lines.iter().filter(records).count(), 20);
    let frame = |line: &&Value| line["type"] == "frame" && line["kind"] == "batches";
    let first = lines.iter().find(frame).unwrap();
    store.close().unwrap();

    let file = node.join("log/000000000001.seg");
    let mut bytes = fs::read(&file).unwrap();
    let offset = first["file_offset"].as_u64().unwrap();
    bytes[usize::try_from(offset).unwrap() + 100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let damaged = here(&["dump"]);
    assert_eq!(damaged.status.code(), Some(5), "{}", stdout(&damaged));
    let text = stderr(&damaged);
    let place = format!("at offset {offset}, LSN {}", first["lsn"]);
    assert!(text.contains("000000000001.seg"), "{text}");
    assert!(text.contains(&place), "{text}");
}

#[test]
fn damage_is_named_by_check_and_mended_by_repair_with_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let here = |arguments: &[&str]| run(&[arguments, &["--dir", node.to_str().unwrap()]].concat());
    let store = filled_node(&node);
    let running = here(&["check"]);
    assert_eq!(running.status.code(), Some(4), "{}", stderr(&running));
    store.close().unwrap();
    drop(store);

    let sound = here(&["check"]);
    assert_eq!(sound.status.code(), Some(0), "{}", stdout(&sound));
    assert!(stdout(&sound).contains("no faults"), "{}", stdout(&sound));
    let copy = dir.path().join("copy");
    fs::create_dir_all(copy.join("log")).unwrap();
    for entry in fs::read_dir(node.join("log")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join("log").join(entry.file_name())).unwrap();
    }

    let file = node.join("log/000000000001.seg");
    let sound = fs::read(&file).unwrap();
    let mut bytes = sound.clone();
    bytes[20_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let damaged = here(&["check", "-o", "json"]);
    assert_eq!(damaged.status.code(), Some(5), "{}", stdout(&damaged));
    let report = json(stdout(&damaged));
    let fault = &report["faults"][0];
    assert_eq!(
        (&fault["kind"], &fault["remedy"]),
        (&"frames".into(), &"repair-from".into())
    );
    assert_eq!(fault["file"], "log/000000000001.seg");
    let offset = fault["offset_bytes"].as_u64().unwrap();
    let len = fault["len_bytes"].as_u64().unwrap();
    assert!(offset <= 20_000 && 20_000 < offset + len, "{fault}");
    assert_eq!(fault["from_lsn"].as_u64(), Some(offset - 4096));
    assert!(report["next"].as_str().unwrap().contains("outlast repair"));
    let table = here(&["check"]);
    assert!(
        stdout(&table).contains("repair --from"),
        "{}",
        stdout(&table)
    );

    // A start that reads all of the log, as one without an index does, refuses and names the same
    // commands.
    fs::remove_dir_all(node.join("index")).unwrap();
    let served = here(&["serve"]);
    assert_eq!(served.status.code(), Some(5), "{}", stderr(&served));
    for part in ["outlast check --dir", "outlast repair --dir"] {
        assert!(stderr(&served).contains(part), "{}", stderr(&served));
    }

    let alone = here(&["repair"]);
    assert_eq!(alone.status.code(), Some(5), "{}", stdout(&alone));
    let from = ["repair", "--from", copy.to_str().unwrap()];
    let rehearsed = here(&[&from[..], &["--dry-run"]].concat());
    assert_eq!(rehearsed.status.code(), Some(0), "{}", stderr(&rehearsed));
    assert!(stdout(&rehearsed).contains("would mend"));
    assert_ne!(fs::read(&file).unwrap(), sound);
    let mended = here(&from);
    assert_eq!(mended.status.code(), Some(0), "{}", stderr(&mended));
    assert!(
        stdout(&mended).contains(&format!(" from {}", copy.display())),
        "{}",
        stdout(&mended)
    );
    assert_eq!(fs::read(&file).unwrap(), sound);
    assert_eq!(here(&["check"]).status.code(), Some(0));
}

#[test]
fn damage_is_mended_from_the_peer_whether_the_node_runs_or_not() {
    use outlast_standby::control::protocol::{Ask, Reply, WireOp};
    use outlast_standby::engine::Level;
    use outlast_tools::pair::{Pair, PairSettings};

    let dir = tempfile::tempdir().unwrap();
    let settings = PairSettings {
        segment_size: 64 << 10,
        tuning: outlast_standby::config::Tuning {
            heartbeat_interval: Duration::from_millis(100),
            silence_max: Duration::from_secs(2),
            ..outlast_standby::config::Tuning::default()
        },
    };
    let exe = std::path::Path::new(env!("CARGO_BIN_EXE_outlast"));
    let pair = Pair::make(exe, dir.path(), settings).unwrap();
    let (a, b) = (pair.start(&pair.a).unwrap(), pair.start(&pair.b).unwrap());
    let mut client = a.client().unwrap();
    for n in 0..30u8 {
        let commit = Ask::Commit {
            keyspace: "default".to_owned(),
            ops: vec![WireOp::Put(vec![b'k', n], vec![n; 5000])],
            level: Level::Applied,
            trace: false,
            pipelined: false,
        };
        let done = client.ask_one(commit).unwrap();
        assert!(matches!(done, Reply::Reached { .. }), "{done:?}");
    }
    let here = |arguments: &[&str]| pair.run(&pair.a, arguments).unwrap();
    let damage = || {
        let file = pair.a.dir().join("log/000000000001.seg");
        let mut bytes = fs::read(&file).unwrap();
        bytes[20_000] ^= 1;
        // In place, as a disk would.
        let open = fs::File::options().write(true).open(&file);
        open.unwrap().write_all(&bytes).unwrap();
    };
    damage();
    let look = here(&["repair", "--dry-run"]);
    assert_eq!(look.status.code(), Some(5), "{}", stderr(&look));
    assert!(stdout(&look).contains("--from-peer"), "{}", stdout(&look));
    let mended = here(&["repair", "--from-peer", "-o", "json"]);
    assert_eq!(mended.status.code(), Some(0), "{}", stderr(&mended));
    let report = json(stdout(&mended));
    assert_eq!(report["schema"], 1);
    assert_eq!(report["running"], true);
    assert!(report["from"].as_str().unwrap().starts_with("b at "));
    assert!(report["fetched_bytes"].as_u64().unwrap() > 5000, "{report}");
    assert_eq!(report["repaired"][0]["file"], "log/000000000001.seg");
    assert_eq!(report["left"], Value::Array(Vec::new()));
    assert_eq!(report["next"], Value::Null);

    a.terminate().unwrap();
    damage();
    // Without an index a start reads all of the log.
    fs::remove_dir_all(pair.a.dir().join("index")).unwrap();
    let refused = here(&["serve"]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("--from-peer"),
        "{}",
        stderr(&refused)
    );
    let rehearsed = here(&["repair", "--from-peer", "--dry-run"]);
    assert_eq!(rehearsed.status.code(), Some(0), "{}", stderr(&rehearsed));
    let next = format!("next     outlast repair --dir {}", pair.a.dir().display());
    for part in ["would mend", " from b at ", &next] {
        assert!(stdout(&rehearsed).contains(part), "{}", stdout(&rehearsed));
    }
    let mended = here(&["repair", "--from-peer"]);
    assert_eq!(mended.status.code(), Some(0), "{}", stderr(&mended));
    assert_eq!(here(&["check"]).status.code(), Some(0));

    b.terminate().unwrap();
    damage();
    let alone = here(&["repair", "--from-peer"]);
    assert_eq!(alone.status.code(), Some(3), "{}", stderr(&alone));
    assert!(stderr(&alone).contains("hint: "), "{}", stderr(&alone));
    let both = here(&["repair", "--from-peer", "--from", "x"]);
    assert_eq!(both.status.code(), Some(2), "{}", stderr(&both));
}
