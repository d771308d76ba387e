//! A reader that stops reading: the sender's memory is bounded, messages pass, the link stands.

use std::time::Duration;

use bytes::Bytes;
use outlast_shipper::{LinkConfig, LinkError, Message, NetThread};

use crate::harness::{Node, linked, quick, run, within};

const MIB: u64 = 1 << 20;

#[test]
fn data_that_nobody_reads_is_bounded_and_delays_neither_messages_nor_the_link() {
    let config = LinkConfig {
        send_window_bytes: 2 * MIB,
        receive_window_bytes: 3 * MIB,
        ..quick()
    };
    run(|net| async move {
        let (_left, _right, mut left, mut right) = linked(&net, &config).await;
        let piece = Bytes::from(vec![7; 64 << 10]);
        let mut taken = 0;
        // The transport takes what fits in both windows, and then no more.
        let idle = Duration::from_millis(config.idle_timeout_ms);
        loop {
            left.data_out.push(piece.clone());
            if tokio::time::timeout(idle, left.data_out.flush())
                .await
                .is_err()
            {
                break;
            }
            taken += piece.len() as u64;
            assert!(taken <= 6 * MIB, "{taken} bytes were taken and none read");
        }
        assert!(taken >= 3 * MIB, "only {taken} bytes were taken");
        assert!(left.data_out.queued_bytes() <= piece.len());

        // Nothing moves now but the signs of life, for longer than a link may be silent.
        let ended = tokio::time::timeout(3 * idle, left.handle.closed()).await;
        assert!(ended.is_err(), "{ended:?}");

        // The largest messages pass in both directions, many of them.
        let message = Message {
            kind: 1,
            body: Bytes::from(vec![9; 200_000]),
        };
        for _ in 0..50 {
            left.messages_out.send(&message).await.unwrap();
            let got = within(right.messages_in.next()).await.unwrap();
            assert_eq!(got.as_ref(), Some(&message));
            right.messages_out.send(&message).await.unwrap();
            let got = within(left.messages_in.next()).await.unwrap();
            assert_eq!(got.as_ref(), Some(&message));
        }

        // Reading again, everything comes, with what is sent on the way.
        let more = 20 * MIB;
        let expected = taken + left.data_out.queued_bytes() as u64 + more;
        let sending = net.spawn("send", async move {
            left.data_out.flush().await.unwrap();
            let pieces = more / (64 << 10);
            left.data_out
                .send((0..pieces).map(|_| Bytes::from(vec![7; 64 << 10])))
                .await
                .unwrap();
            left.handle.closed().await;
        });
        let mut read = 0;
        while read < expected {
            let got = within(right.data_in.next()).await.unwrap();
            assert!(got.iter().all(|byte| *byte == 7));
            read += got.len() as u64;
        }
        assert_eq!(read, expected);
        drop(right);
        sending.await.unwrap();
    });
}

/// The transport takes no more data before some of it was acknowledged, and still takes messages.
#[test]
fn a_message_is_taken_at_once_while_as_much_data_as_may_be_is_under_way() {
    let config = LinkConfig {
        send_window_bytes: 2 * MIB,
        ..quick()
    };
    run(|net| async move {
        let (_left, _right, mut left, mut right) = linked(&net, &config).await;
        left.data_out.push(Bytes::from(vec![7; 10 << 20]));
        // Nothing is sent meanwhile: the transport's own tasks run on this thread, and this one
        // does not let go of it.
        tokio::select! {
            biased;
            done = left.data_out.flush() => panic!("10 MiB are under way: {done:?}"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(left.data_out.queued_bytes(), 8 << 20);
        let message = Message {
            kind: 1,
            body: Bytes::from(vec![9; 200_000]),
        };
        left.messages_out.push(&message);
        tokio::select! {
            biased;
            done = left.messages_out.flush() => done.unwrap(),
            () = std::future::ready(()) => panic!("the message waits for data"),
        }
        assert_eq!(within(right.messages_in.next()).await, Ok(Some(message)));
    });
}

/// The peer's process stands still: it acknowledges nothing, and says nothing.
#[test]
fn a_peer_that_stands_still_is_noticed() {
    run(|net| async move {
        let config = quick();
        let other = NetThread::start("net-other", |panic| panic!("{panic}")).unwrap();
        let left = Node::start(&net, "left", &config).await;
        let right = Node::start(&other.handle(), "right", &config).await;
        left.trust([right.as_peer()]);
        right.trust([left.as_peer()]);
        let (dialled, accepted) = tokio::join!(left.dial(&right), right.accept());
        let (left_link, right_link) = (dialled.unwrap(), accepted);

        let (go_on, going) = std::sync::mpsc::channel::<()>();
        other.handle().spawn("stands still", async move {
            let _ = going.recv();
        });
        let start = std::time::Instant::now();
        let end = within(left_link.handle.closed()).await;
        let idle_timeout_ms = config.idle_timeout_ms;
        assert_eq!(end, LinkError::Silent { idle_timeout_ms });
        let most = Duration::from_millis(3 * idle_timeout_ms);
        assert!(start.elapsed() < most, "only after {:?}", start.elapsed());

        drop(go_on);
        let end = within(right_link.handle.closed()).await;
        assert!(
            matches!(end, LinkError::Silent { .. } | LinkError::Forgotten),
            "{end}"
        );
        drop((left_link, right_link, left, right));
        // Joining its thread must not hold up this one, on which the endpoints' last tasks run.
        tokio::task::spawn_blocking(move || drop(other))
            .await
            .unwrap();
    });
}
