//! How links begin and end, and what each side is told.

use std::time::Duration;

use bytes::Bytes;
use outlast_engine::format::NodeId;
use outlast_shipper::{CloseCode, Endpoint, Identity, LinkConfig, LinkError, Message, Peers};

use crate::harness::{Node, anywhere, link, linked, quick, run, within};

const BYE: CloseCode = CloseCode(CloseCode::FIRST_FREE.0 + 7);

#[test]
fn last_words_are_heard_when_both_sides_take_their_time() {
    run(|net| async move {
        let (_left, _right, mut left, mut right) = linked(&net, &LinkConfig::default()).await;
        let last = Message {
            kind: 9,
            body: Bytes::from_static(b"last words"),
        };
        left.messages_out.send(&last).await.unwrap();
        within(left.messages_out.finish()).await.unwrap();
        assert_eq!(within(right.messages_in.next()).await, Ok(Some(last)));
        assert_eq!(within(right.messages_in.next()).await, Ok(None));
        right.handle.close(BYE, "heard");
        right
            .handle
            .close(CloseCode::DONE, "a second word counts for nothing");

        let reason = "heard".to_owned();
        let by_peer = LinkError::ClosedByPeer {
            code: BYE,
            reason: reason.clone(),
        };
        assert_eq!(within(left.handle.closed()).await, by_peer);
        assert_eq!(within(left.messages_in.next()).await, Err(by_peer.clone()));
        assert_eq!(within(left.data_in.next()).await, Err(by_peer.clone()));
        let sent = left.data_out.send([Bytes::from_static(b"x")]).await;
        assert_eq!(sent, Err(by_peer));
        let here = LinkError::ClosedHere { code: BYE, reason };
        assert_eq!(within(right.handle.closed()).await, here);
        assert_eq!(within(right.messages_in.next()).await, Ok(None));
        assert_eq!(within(right.data_in.next()).await, Err(here));
    });
}

#[test]
fn a_link_that_is_let_go_ends_and_says_so() {
    run(|net| async move {
        let (left, right) = Node::pair(&net, &LinkConfig::default()).await;
        let (left_link, right_link) = link(&left, &right).await;
        drop(left_link);
        let end = within(right_link.handle.closed()).await;
        let code = CloseCode::ABANDONED;
        assert!(
            matches!(end, LinkError::ClosedByPeer { code: c, .. } if c == code),
            "{end}"
        );
        assert_eq!((left.endpoint.links(), right.endpoint.links()), (0, 0));

        // Any part keeps it: one may live in a task of its own.
        let (left_link, right_link) = link(&left, &right).await;
        let mut data_in = right_link.data_in;
        drop((
            right_link.handle,
            right_link.messages_in,
            right_link.messages_out,
        ));
        let mut data_out = left_link.data_out;
        drop((
            left_link.handle,
            left_link.messages_in,
            left_link.messages_out,
        ));
        data_out.send([Bytes::from_static(b"x")]).await.unwrap();
        assert_eq!(within(data_in.next()).await.unwrap(), "x");
    });
}

#[test]
fn closing_the_endpoint_closes_its_links_with_the_reason() {
    run(|net| async move {
        let (left, right, left_link, right_link) = linked(&net, &LinkConfig::default()).await;
        left.endpoint.close(CloseCode::STOPPING, "upgrade").await;
        let reason = "upgrade".to_owned();
        let code = CloseCode::STOPPING;
        let by_peer = LinkError::ClosedByPeer {
            code,
            reason: reason.clone(),
        };
        assert_eq!(within(right_link.handle.closed()).await, by_peer);
        let here = LinkError::ClosedHere { code, reason };
        assert_eq!(within(left_link.handle.closed()).await, here);
        assert!(within(left.endpoint.accept()).await.is_none());
        let dialled = left.dial(&right).await;
        assert!(
            matches!(dialled, Err(LinkError::Endpoint { .. })),
            "{dialled:?}"
        );
    });
}

#[test]
fn a_node_that_does_not_listen_is_as_good_as_not_there() {
    run(|net| async move {
        let (left, right) = Node::pair(&net, &quick()).await;
        let (_left_link, right_link) = link(&left, &right).await;
        right.endpoint.set_listening(false);
        let (address, waited_ms) = (right.address, quick().idle_timeout_ms);
        let refused = left.dial(&right).await.unwrap_err();
        assert_eq!(refused, LinkError::NoAnswer { address, waited_ms });
        // Links that stand are not touched, and the way out stays open.
        assert_eq!(right.endpoint.links(), 1);
        link(&right, &left).await;
        right.endpoint.set_listening(true);
        link(&left, &right).await;
        drop(right_link);
    });
}

#[test]
fn nobody_at_the_address_is_told_within_the_limit() {
    run(|net| async move {
        let left = Node::start(&net, "left", &quick()).await;
        let nobody = std::net::UdpSocket::bind(anywhere()).unwrap();
        let address = nobody.local_addr().unwrap();
        let refused = within(left.endpoint.dial(address, NodeId::random())).await;
        let waited_ms = quick().idle_timeout_ms;
        assert_eq!(
            refused.unwrap_err(),
            LinkError::NoAnswer { address, waited_ms }
        );
    });
}

#[test]
fn a_further_link_of_one_peer_ends_its_oldest() {
    run(|net| async move {
        let (left, right) = Node::pair(&net, &LinkConfig::default()).await;
        let (first, first_there) = link(&left, &right).await;
        let (second, second_there) = link(&left, &right).await;
        assert_eq!(right.endpoint.links(), 2);
        let (third, third_there) = link(&left, &right).await;
        let end = within(first.handle.closed()).await;
        let code = CloseCode::REPLACED;
        // Both ends count, and either may be the one that ends it.
        assert!(
            matches!(
                end,
                LinkError::ClosedByPeer { code: c, .. } | LinkError::ClosedHere { code: c, .. }
                if c == code
            ),
            "{end}"
        );
        within(first_there.handle.closed()).await;
        assert_eq!(right.endpoint.links(), 2);
        drop((second, second_there, third, third_there));
    });
}

#[test]
fn many_links_one_after_the_other_leave_nothing_behind() {
    run(|net| async move {
        let (left, right) = Node::pair(&net, &LinkConfig::default()).await;
        for i in 0..100 {
            let (left_link, right_link) = link(&left, &right).await;
            let ended = if i % 2 == 0 {
                drop(left_link);
                right_link
            } else {
                drop(right_link);
                left_link
            };
            within(ended.handle.closed()).await;
        }
        assert_eq!((left.endpoint.links(), right.endpoint.links()), (0, 0));
    });
}

#[test]
fn an_endpoint_says_what_the_system_granted_and_what_is_wrong() {
    run(|net| async move {
        let config = LinkConfig {
            socket_receive_buffer_bytes: 64 << 10,
            ..LinkConfig::default()
        };
        let node = Node::start(&net, "node", &config).await;
        assert_eq!(node.endpoint.socket_buffers().receive_bytes, 64 << 10);

        let start = |address, config| {
            let identity = Identity::ephemeral().unwrap();
            Endpoint::start(&net, address, identity, Peers::default(), config)
        };
        let taken = start(node.address, config.clone()).await.unwrap_err();
        let said = taken.to_string();
        assert!(said.contains(&node.address.to_string()), "{said}");
        let faulty = LinkConfig {
            keep_alive_ms: 0,
            ..config
        };
        let refused = start(anywhere(), faulty).await.unwrap_err();
        assert!(refused.to_string().contains("keep_alive_ms"), "{refused}");
    });
}

#[test]
fn a_link_says_how_it_does() {
    run(|net| async move {
        let (_left, _right, mut left, mut right) = linked(&net, &LinkConfig::default()).await;
        left.data_out
            .send([Bytes::from(vec![0; 100_000])])
            .await
            .unwrap();
        let mut read = 0;
        while read < 100_000 {
            read += within(right.data_in.next()).await.unwrap().len();
        }
        let stats = left.handle.stats();
        assert!(
            stats.sent_bytes > 100_000 && stats.sent_packets > 60,
            "{stats:?}"
        );
        assert!(stats.rtt > Duration::ZERO && stats.rtt < Duration::from_secs(1));
        assert!((1200..=1452).contains(&stats.mtu_bytes), "{stats:?}");
        assert!(right.handle.stats().received_bytes > 100_000);
    });
}
