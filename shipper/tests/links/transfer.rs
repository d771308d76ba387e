//! What is sent arrives: whole, once, in order.

use bytes::Bytes;
use outlast_shipper::{DataReceiver, DataSender, Link, LinkConfig, MESSAGE_BYTES_MAX, Message};

use crate::harness::{linked, run, within};

/// A long text of which each place is known: byte `i` is a function of `i` and `seed`.
fn text(seed: u64, from: u64, len: usize) -> Bytes {
    let at = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_le_bytes()[5];
    (from..from + len as u64).map(at).collect()
}

async fn send_text(mut data: DataSender, seed: u64, len: u64) -> DataSender {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut at = 0;
    while at < len {
        let piece = *rng
            .choice(&[1_u64, 100, 5_000, 70_000, 300_000, 3_000_000])
            .unwrap();
        let piece = piece.min(len - at);
        data.send([text(seed, at, piece as usize)]).await.unwrap();
        at += piece;
    }
    data
}

async fn read_text(mut data: DataReceiver, seed: u64, len: u64) -> DataReceiver {
    let mut at = 0;
    while at < len {
        let got = within(data.next()).await.unwrap();
        assert!(!got.is_empty());
        assert!(
            got == text(seed, at, got.len()),
            "between {at} and {}",
            at + got.len() as u64
        );
        at += got.len() as u64;
    }
    assert_eq!(at, len);
    data
}

fn message(i: usize) -> Message {
    let len = [0, 1, 64, 1_000, 65_536, 262_144][i % 6];
    Message {
        kind: u16::try_from(i % 1000 + 1).unwrap(),
        body: text(i as u64, 0, len),
    }
}

#[test]
fn messages_arrive_in_order_both_ways() {
    const COUNT: usize = 300;
    run(|net| async move {
        let (_left, _right, left, right) = linked(&net, &LinkConfig::default()).await;
        let exchange = |link: Link| async move {
            let (mut out, mut into) = (link.messages_out, link.messages_in);
            let send = async {
                for i in 0..COUNT {
                    out.send(&message(i)).await.unwrap();
                }
            };
            let read = async {
                for i in 0..COUNT {
                    assert_eq!(within(into.next()).await.unwrap(), Some(message(i)), "{i}");
                }
            };
            tokio::join!(send, read);
            (link.handle, out, into)
        };
        tokio::join!(exchange(left), exchange(right));
    });
}

#[test]
fn the_longest_message_arrives_and_a_longer_one_is_not_made() {
    run(|net| async move {
        let (_left, _right, mut left, mut right) = linked(&net, &LinkConfig::default()).await;
        let longest = Message {
            kind: 1,
            body: text(8, 0, MESSAGE_BYTES_MAX as usize),
        };
        let (sent, got) = tokio::join!(
            left.messages_out.send(&longest),
            within(right.messages_in.next())
        );
        assert_eq!((sent, got), (Ok(()), Ok(Some(longest))));
        let longer = Message {
            kind: 1,
            body: Bytes::from(vec![0; MESSAGE_BYTES_MAX as usize + 1]),
        };
        let push = std::panic::AssertUnwindSafe(|| left.messages_out.push(&longer));
        assert!(std::panic::catch_unwind(push).is_err());
    });
}

#[test]
fn sixty_four_mebibytes_arrive_in_order_both_ways_at_once() {
    const LEN: u64 = 64 << 20;
    run(|net| async move {
        let (_left, _right, left, right) = linked(&net, &LinkConfig::default()).await;
        let send = |data, seed| async move {
            send_text(data, seed, LEN).await;
        };
        let sending = [
            net.spawn("left", send(left.data_out, 1)),
            net.spawn("right", send(right.data_out, 2)),
        ];
        tokio::join!(
            read_text(left.data_in, 2, LEN),
            read_text(right.data_in, 1, LEN)
        );
        for task in sending {
            task.await.unwrap();
        }
    });
}

#[test]
fn nothing_is_lost_or_doubled_when_waiting_is_given_up_again_and_again() {
    const LEN: u64 = 12 << 20;
    const MESSAGES: usize = 60;
    run(|net| async move {
        let (_left, _right, mut left, right) = linked(&net, &LinkConfig::default()).await;
        net.spawn("send", async move {
            let mut rng = fastrand::Rng::with_seed(7);
            let mut at = 0;
            let mut messages = 0;
            loop {
                if at < LEN && left.data_out.queued_bytes() < 200_000 {
                    let len = rng.u64(1..100_000).min(LEN - at);
                    left.data_out.push(text(3, at, len as usize));
                    at += len;
                }
                if messages < MESSAGES && left.messages_out.queued_bytes() < 200_000 {
                    left.messages_out.push(&message(messages));
                    messages += 1;
                }
                tokio::select! {
                    biased;
                    result = left.data_out.flush() => result.unwrap(),
                    () = tokio::task::yield_now() => {}
                }
                tokio::select! {
                    biased;
                    result = left.messages_out.flush() => result.unwrap(),
                    () = tokio::task::yield_now() => {}
                }
                if left.data_out.queued_bytes() + left.messages_out.queued_bytes() == 0
                    && (at, messages) == (LEN, MESSAGES)
                {
                    break;
                }
            }
            left.handle.closed().await;
        });
        let (mut data_in, mut messages_in) = (right.data_in, right.messages_in);
        let (mut at, mut messages) = (0, 0);
        while (at, messages) != (LEN, MESSAGES) {
            tokio::select! {
                biased;
                got = data_in.next() => {
                    let got = got.unwrap();
                    assert!(got == text(3, at, got.len()), "at {at}");
                    at += got.len() as u64;
                }
                () = tokio::task::yield_now() => {}
            }
            tokio::select! {
                biased;
                got = messages_in.next() => {
                    assert_eq!(got.unwrap(), Some(message(messages)));
                    messages += 1;
                }
                () = tokio::task::yield_now() => {}
            }
        }
    });
}

/// Single bytes, each handed over alone, while the reader does not keep up: the pieces of one
/// stream are many, and the transport must neither give up nor need much for them.
#[test]
fn a_reader_that_lags_behind_very_small_pieces_gets_them_all() {
    const LEN: u64 = 30_000;
    run(|net| async move {
        let (_left, _right, mut left, right) = linked(&net, &LinkConfig::default()).await;
        for at in 0..LEN {
            left.data_out.send([text(4, at, 1)]).await.unwrap();
            if at % 4 == 0 {
                tokio::task::yield_now().await;
            }
        }
        read_text(right.data_in, 4, LEN).await;
    });
}

/// Settings with which sending takes a while even where nothing slows it down.
fn slow_start() -> LinkConfig {
    LinkConfig {
        initial_window_bytes: 4 << 10,
        ..LinkConfig::default()
    }
}

/// Of three streams of data that wait to be sent, none is finished before a message that came when
/// the first had begun.
#[test]
fn a_message_overtakes_data_that_waits() {
    run(|net| async move {
        let (_left, _right, mut left, mut right) = linked(&net, &slow_start()).await;
        let before = right.handle.stats().received_bytes;
        left.data_out.send([text(5, 0, 3 << 20)]).await.unwrap();
        let first = within(right.data_in.next()).await.unwrap();
        assert!(first == text(5, 0, first.len()));
        left.messages_out.send(&message(2)).await.unwrap();
        assert_eq!(within(right.messages_in.next()).await, Ok(Some(message(2))));
        let arrived = right.handle.stats().received_bytes - before;
        assert!(arrived < 1 << 20, "{arrived} bytes arrived before it");
    });
}

/// What comes first is sent first, though all three streams wait.
#[test]
fn later_streams_do_not_slow_down_the_first() {
    run(|net| async move {
        let (_left, _right, mut left, mut right) = linked(&net, &slow_start()).await;
        let before = right.handle.stats().received_bytes;
        left.data_out.send([text(6, 0, 3 << 20)]).await.unwrap();
        let mut at = 0;
        while at < 1 << 20 {
            let got = within(right.data_in.next()).await.unwrap();
            assert!(got == text(6, at, got.len()), "at {at}");
            at += got.len() as u64;
        }
        let arrived = right.handle.stats().received_bytes - before;
        assert!(
            arrived < 2 << 20,
            "{arrived} bytes arrived for the first MiB"
        );
    });
}
