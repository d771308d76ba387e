//! The relay between real sockets on loopback.

use std::collections::BTreeSet;
use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};

use super::*;
use crate::units::{Rate, Share};

const DEADLINE: Duration = Duration::from_secs(10);

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn relay_to(destination: &UdpSocket, change: impl FnOnce(&mut Lines)) -> RelayHandle {
    let mut settings = Settings {
        seed: 7,
        ..Settings::plain(destination.local_addr().unwrap())
    };
    change(&mut settings.lines);
    spawn(settings).unwrap()
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 65_536];
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

fn wait_until(relay: &RelayHandle, condition: impl Fn(&RelayStats) -> bool) -> RelayStats {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let stats = relay.stats().unwrap();
        if condition(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "still {stats:?}");
        std::thread::yield_now();
    }
}

fn accounted(counts: &LineCounts, under_way: usize) -> bool {
    let ends = counts.delivered + counts.lost + counts.cut + counts.queue_full + counts.unsent;
    counts.offered + counts.duplicated == ends + under_way as u64
}

#[test]
fn each_client_gets_its_own_answers() {
    let (server, one, two) = (socket(), socket(), socket());
    let relay = relay_to(&server, |_| {});
    one.send_to(b"one", relay.address()).unwrap();
    let (bytes, first) = receive(&server);
    assert_eq!(bytes, b"one");
    two.send_to(b"two", relay.address()).unwrap();
    let (bytes, second) = receive(&server);
    assert_eq!(bytes, b"two");
    assert_ne!(first, second);
    server.send_to(b"to two", second).unwrap();
    server.send_to(b"to one", first).unwrap();
    assert_eq!(receive(&one), (b"to one".to_vec(), relay.address()));
    assert_eq!(receive(&two), (b"to two".to_vec(), relay.address()));
    let stats = wait_until(&relay, |stats| stats.down.delivered == 2);
    assert_eq!(
        (stats.clients, stats.up.delivered, stats.kernel_dropped),
        (2, 2, 0)
    );
}

#[test]
fn only_the_destination_can_answer() {
    let (server, client, stranger) = (socket(), socket(), socket());
    let relay = relay_to(&server, |_| {});
    client.send_to(b"hello", relay.address()).unwrap();
    let (_, upstream) = receive(&server);
    stranger.send_to(b"forged", upstream).unwrap();
    server.send_to(b"real", upstream).unwrap();
    assert_eq!(receive(&client).0, b"real");
}

#[test]
fn datagrams_of_every_size_pass_unchanged() {
    let (server, client) = (socket(), socket());
    let relay = relay_to(&server, |_| {});
    for size in [0, 1, 1200, 1452, 9000, 65_000] {
        let sent: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        client.send_to(&sent, relay.address()).unwrap();
        assert_eq!(receive(&server).0, sent);
    }
}

/// Sends 200 numbered datagrams up and returns the numbers that arrived.
fn survivors(relay: &mut RelayHandle, server: &UdpSocket, client: &UdpSocket) -> BTreeSet<u64> {
    for number in 0..200_u64 {
        client
            .send_to(&number.to_le_bytes(), relay.address())
            .unwrap();
    }
    wait_until(relay, |stats| stats.up.offered == 200);
    relay.change(|lines| lines.up.loss = Share::NONE).unwrap();
    client.send_to(b"end", relay.address()).unwrap();
    let numbers = std::iter::from_fn(|| <[u8; 8]>::try_from(receive(server).0).ok());
    numbers.map(u64::from_le_bytes).collect()
}

#[test]
fn the_wire_shows_the_fates_that_the_line_decides() {
    let (server, client) = (socket(), socket());
    let lossy = |lines: &mut Lines| lines.up.loss = Share::percent(50);
    let arrived = survivors(&mut relay_to(&server, lossy), &server, &client);
    let again = survivors(&mut relay_to(&server, lossy), &server, &client);
    assert_eq!(arrived, again, "same seed, same fates");

    let mut lines = Lines::default();
    lossy(&mut lines);
    let (mut line, _) = Line::pair(lines.up, lines.down, 7);
    let lives = |_: &u64| matches!(line.offer(Duration::ZERO, 8), Fate::Delivered { .. });
    let expected: BTreeSet<u64> = (0..200).filter(lives).collect();
    assert_eq!(arrived, expected);
    assert!((60..140).contains(&arrived.len()));
}

/// Sends `datagrams` in one system call with segmentation offload.
fn send_burst(client: &UdpSocket, to: SocketAddr, size: usize, contents: &[u8]) {
    let offload = UdpSocketState::new(client.into()).unwrap();
    assert!(
        offload.max_gso_segments() > 1,
        "this kernel knows no segmentation offload"
    );
    let ecn = Some(EcnCodepoint::Ect0);
    let burst = Transmit {
        destination: to,
        ecn,
        contents,
        segment_size: Some(size),
        src_ip: None,
    };
    offload.try_send(client.into(), &burst).unwrap();
}

#[test]
fn a_burst_is_judged_datagram_by_datagram() {
    const SIZE: usize = 1200;
    let (server, client) = (socket(), socket());
    let relay = relay_to(&server, |lines| lines.up.loss = Share::percent(50));
    // Nine of equal size and a shorter one, each filled with its number.
    let mut contents: Vec<u8> = (0..9_u8).flat_map(|n| [n; SIZE]).collect();
    contents.extend([9; 100]);
    send_burst(&client, relay.address(), SIZE, &contents);

    let lossy = LineSettings {
        loss: Share::percent(50),
        ..LineSettings::default()
    };
    let (mut line, _) = Line::pair(lossy, LineSettings::default(), 7);
    let mut expected = Vec::new();
    for datagram in contents.chunks(SIZE) {
        if line.offer(Duration::ZERO, datagram.len()) != Fate::Gone(Cause::Loss) {
            expected.push(datagram.to_vec());
        }
    }
    assert!(
        (1..10).contains(&expected.len()),
        "the seed loses some and not all"
    );
    // A plain socket gets them one by one, although they may have left as one burst.
    let arrived: Vec<_> = expected.iter().map(|_| receive(&server).0).collect();
    assert_eq!(arrived, expected);
    let stats = wait_until(&relay, |stats| stats.up_under_way == 0);
    assert_eq!(
        (stats.up.offered, stats.up.delivered),
        (10, expected.len() as u64)
    );
}

#[test]
fn the_kernel_splits_a_burst_for_a_plain_receiver() {
    let (server, client) = (socket(), socket());
    send_burst(&client, server.local_addr().unwrap(), 1000, &[5; 2500]);
    let sizes: Vec<_> = (0..3).map(|_| receive(&server).0.len()).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
}

#[test]
fn congestion_marks_survive() {
    let (server, client) = (socket(), socket());
    let relay = relay_to(&server, |_| {});
    send_burst(&client, relay.address(), 100, &[1; 200]);
    // `UdpSocketState` makes the socket non-blocking; peeking waits for the datagram first.
    server.peek_from(&mut [0; 1]).unwrap();
    let marks = UdpSocketState::new((&server).into()).unwrap();
    let mut buffer = [0; 65_536];
    let mut meta = [RecvMeta::default()];
    let mut buffers = [IoSliceMut::new(&mut buffer)];
    marks
        .recv((&server).into(), &mut buffers, &mut meta)
        .unwrap();
    assert_eq!(meta[0].ecn, Some(EcnCodepoint::Ect0));
}

#[test]
fn a_cut_takes_effect_before_it_is_answered() {
    let (server, client) = (socket(), socket());
    let mut relay = relay_to(&server, |lines| lines.up.delay = Duration::from_secs(60));
    client.send_to(b"under way", relay.address()).unwrap();
    wait_until(&relay, |stats| stats.up_under_way == 1);
    relay
        .change(|lines| {
            lines.up.cut = true;
            lines.up.delay = Duration::ZERO;
        })
        .unwrap();
    client.send_to(b"into the cut", relay.address()).unwrap();
    let stats = wait_until(&relay, |stats| stats.up.offered == 2);
    assert_eq!((stats.up.cut, stats.up_under_way), (2, 0));
    relay.change(|lines| lines.up.cut = false).unwrap();
    client.send_to(b"healed", relay.address()).unwrap();
    assert_eq!(receive(&server).0, b"healed");
    assert!(nothing_has_arrived(&server));
}

#[test]
fn a_cut_of_one_way_leaves_the_other() {
    let (server, client) = (socket(), socket());
    let mut relay = relay_to(&server, |_| {});
    client.send_to(b"hello", relay.address()).unwrap();
    let (_, upstream) = receive(&server);
    relay.change(|lines| lines.up.cut = true).unwrap();
    client.send_to(b"lost", relay.address()).unwrap();
    server.send_to(b"still there", upstream).unwrap();
    assert_eq!(receive(&client).0, b"still there");
    wait_until(&relay, |stats| stats.up.cut == 1);
    assert!(nothing_has_arrived(&server));
}

#[test]
fn delay_and_rate_take_their_time() {
    let (server, client) = (socket(), socket());
    let relay = relay_to(&server, |lines| {
        lines.up.delay = Duration::from_millis(20);
        lines.up.rate = Some(Rate::from_bits_per_s(8_000_000));
        lines.up.queue = Some(1 << 20);
    });
    let began = Instant::now();
    for _ in 0..50 {
        client.send_to(&[0; 1000], relay.address()).unwrap();
    }
    receive(&server);
    assert!(
        began.elapsed() >= Duration::from_millis(21),
        "{:?}",
        began.elapsed()
    );
    (1..50).for_each(|_| drop(receive(&server)));
    assert!(
        began.elapsed() >= Duration::from_millis(70),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn copies_arrive_and_everything_is_accounted_for() {
    let (server, client) = (socket(), socket());
    let relay = relay_to(&server, |lines| {
        lines.up.duplicate = Share::ALL;
        lines.up.reorder = Share::percent(20);
    });
    for number in 0..100_u8 {
        client.send_to(&[number], relay.address()).unwrap();
    }
    let mut arrived: Vec<u8> = (0..200).map(|_| receive(&server).0[0]).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..100).flat_map(|n| [n, n]).collect::<Vec<u8>>());
    let stats = wait_until(&relay, |stats| stats.up_under_way == 0);
    assert_eq!(
        (
            stats.up.duplicated,
            stats.up.delivered,
            stats.up.delivered_bytes
        ),
        (100, 200, 200)
    );
    assert!(
        accounted(&stats.up, 0) && stats.up.reordered > 5,
        "{stats:?}"
    );
}

#[test]
fn dropping_the_handle_frees_the_address() {
    let (server, client) = (socket(), socket());
    let relay = relay_to(&server, |lines| lines.up.delay = Duration::from_secs(60));
    client.send_to(b"never arrives", relay.address()).unwrap();
    wait_until(&relay, |stats| stats.up_under_way == 1);
    let address = relay.address();
    drop(relay);
    UdpSocket::bind(address).expect("the relay's address is free again");
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let server = socket();
    let listen = server.local_addr().unwrap();
    let error = spawn(Settings {
        listen,
        ..Settings::plain(listen)
    })
    .unwrap_err();
    assert!(error.to_string().contains(&listen.to_string()));
}
