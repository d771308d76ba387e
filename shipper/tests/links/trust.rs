//! Who is let in, and who is not, and that both sides can tell why.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use outlast_engine::format::{EnvelopeFault, NodeId};
use outlast_shipper::{
    CloseCode, DataFault, Endpoint, Identity, LINK_VERSION, Link, LinkConfig, LinkError,
    MESSAGE_BYTES_MAX, NetHandle, Peer, PeerRefusal, Refusal,
};
use quinn::{ConnectionError, VarInt};
use rcgen::{CertificateParams, KeyPair};
use rustls::NamedGroup;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::harness::{DEADLINE, Node, anywhere, link, linked, peer, peers, quick, run, within};
use crate::rogue::{self, ALPN, Inside, Papers, Server, client_tls, data_header, knock, message};

/// TLS alerts, as QUIC carries them.
const BAD_CERTIFICATE: u8 = 42;
const ACCESS_DENIED: u8 = 49;
const DECRYPT_ERROR: u8 = 51;
const CERTIFICATE_REQUIRED: u8 = 116;
const NO_APPLICATION_PROTOCOL: u8 = 120;

#[track_caller]
fn assert_alert(error: &ConnectionError, alert: u8) {
    let ConnectionError::ConnectionClosed(close) = error else {
        panic!("{error:?} is not an alert of the other side");
    };
    assert_eq!(
        u64::from(close.error_code),
        0x100 + u64::from(alert),
        "{error}"
    );
}

/// A node that trusts one peer, whose key is not at hand.
async fn guarded(net: &NetHandle) -> Node {
    let node = Node::start(net, "node", &quick()).await;
    let absent = Identity::ephemeral().unwrap();
    node.trust([peer("absent", NodeId::random(), absent.pin())]);
    node
}

fn trusting(papers: &Papers) -> Peer {
    peer("rogue", NodeId([9; 16]), papers.pin)
}

/// The certificate of a node, as anybody gets it who dials.
async fn certificate_of(node: &Node) -> Vec<CertificateDer<'static>> {
    let endpoint = rogue::endpoint();
    let tls = client_tls(&Papers::nothing());
    let connection = within(rogue::connecting(&endpoint, node.address, tls))
        .await
        .unwrap();
    let identity = connection.peer_identity().unwrap();
    let certificates = *identity.downcast().unwrap();
    node.refusal().await;
    certificates
}

#[test]
fn whoever_shows_no_key_is_refused() {
    run(|net| async move {
        let node = guarded(&net).await;
        let told = knock(node.address, &Papers::nothing()).await;
        assert_alert(&told, CERTIFICATE_REQUIRED);
        assert_eq!(
            node.refusal().await,
            LinkError::Refused(Refusal::NoCertificate)
        );
    });
}

#[test]
fn whoever_shows_an_unknown_key_is_refused() {
    run(|net| async move {
        let node = guarded(&net).await;
        let papers = Papers::new();
        assert_alert(&knock(node.address, &papers).await, ACCESS_DENIED);
        let pin = papers.pin;
        let refused = LinkError::Refused(Refusal::UnknownKey { pin });
        assert_eq!(node.refusal().await, refused);
        assert!(refused.to_string().contains(&pin.to_string()));
    });
}

#[test]
fn whoever_shows_the_certificate_of_another_is_refused() {
    run(|net| async move {
        let (left, right) = Node::pair(&net, &quick()).await;
        let stolen = certificate_of(&left).await;
        let papers = Papers::showing(stolen, &KeyPair::generate().unwrap());
        assert_alert(&knock(right.address, &papers).await, DECRYPT_ERROR);
        assert_eq!(
            right.refusal().await,
            LinkError::Refused(Refusal::BadSignature)
        );
        // The owner of the certificate comes in as before.
        link(&left, &right).await;
    });
}

#[test]
fn certificates_that_are_none_or_too_many_are_refused() {
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        let key = KeyPair::generate().unwrap();
        let fine = Papers::signed_with(&CertificateParams::default(), &key);
        node.trust([trusting(&fine)]);
        let certificate = fine.key.as_ref().unwrap().cert[0].clone();

        let chain = vec![certificate.clone(), certificate.clone()];
        let told = knock(node.address, &Papers::showing(chain, &key)).await;
        assert_alert(&told, ACCESS_DENIED);
        let refusal = Refusal::Certificates { count: 2 };
        assert_eq!(node.refusal().await, LinkError::Refused(refusal));

        for spoilt in [
            vec![0x30, 0x82, 0xff, 0xff, 0],
            vec![7; 1000],
            certificate[..certificate.len() - 1].to_vec(),
        ] {
            let papers = Papers::showing(vec![spoilt.into()], &key);
            assert_alert(&knock(node.address, &papers).await, BAD_CERTIFICATE);
            assert_eq!(
                node.refusal().await,
                LinkError::Refused(Refusal::NotACertificate)
            );
        }
        Inside::enter(node.address, &fine).await;
        node.accept().await;
    });
}

#[test]
fn a_key_of_another_kind_cannot_be_used_even_where_it_is_trusted() {
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        for kind in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(kind).unwrap();
            let papers = Papers::signed_with(&CertificateParams::default(), &key);
            node.trust([trusting(&papers)]);
            // Asked for a signature of the one kind that counts, it has none to show.
            let told = knock(node.address, &papers).await;
            assert_alert(&told, CERTIFICATE_REQUIRED);
            let refusal = LinkError::Refused(Refusal::NoCertificate);
            assert_eq!(node.refusal().await, refusal);
        }
    });
}

#[test]
fn names_and_dates_of_certificates_count_for_nothing() {
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        for (from, to) in [(1990, 1991), (4000, 4001)] {
            let mut params = CertificateParams::new(vec!["elsewhere.example".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(to, 1, 1);
            let papers = Papers::made_from(&params);
            node.trust([trusting(&papers)]);
            let _inside = Inside::enter(node.address, &papers).await;
            assert_eq!(node.accept().await.handle.peer().name, "rogue");
        }
    });
}

#[test]
fn whoever_speaks_another_protocol_is_refused() {
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        let protocols: [&[&[u8]]; 4] = [&[b"outlast/2"], &[b"h3"], &[b"outlast"], &[]];
        for alpn in protocols {
            let papers = Papers::new().speaking(alpn);
            node.trust([trusting(&papers)]);
            assert_alert(&knock(node.address, &papers).await, NO_APPLICATION_PROTOCOL);
            assert_eq!(
                node.refusal().await,
                LinkError::Refused(Refusal::OtherProtocol)
            );
        }
        // One that speaks several, ours among them, is let in.
        let papers = Papers::new().speaking(&[b"outlast/2", ALPN]);
        node.trust([trusting(&papers)]);
        Inside::enter(node.address, &papers).await;
        node.accept().await;
    });
}

/// Counts the tickets that a server hands out.
#[derive(Debug, Default)]
struct Tickets(AtomicUsize);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[test]
fn nobody_comes_back_without_a_whole_handshake() {
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        let papers = Papers::new();
        node.trust([trusting(&papers)]);

        // One store counts what it is given; the other would use it.
        let tickets = Arc::new(Tickets::default());
        for store in [
            Resumption::store(tickets.clone()),
            Resumption::in_memory_sessions(8),
        ] {
            let mut tls = client_tls(&papers);
            tls.enable_early_data = true;
            tls.resumption = store;
            let endpoint = rogue::endpoint();
            for _ in 0..3 {
                let connecting = rogue::connecting(&endpoint, node.address, tls.clone());
                let Err(connecting) = connecting.into_0rtt() else {
                    panic!("something could be sent before the handshake");
                };
                let connection = within(connecting).await.unwrap();
                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                send.write_all(&message(LINK_VERSION, 0, &[]))
                    .await
                    .unwrap();
                within(recv.read_chunk(100, true)).await.unwrap();
                node.accept().await;
            }
        }
        assert_eq!(tickets.0.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_key_that_is_removed_loses_its_link_and_gets_no_other() {
    run(|net| async move {
        let (left, right) = Node::pair(&net, &quick()).await;
        let third = Node::start(&net, "third", &quick()).await;
        third.trust([right.as_peer()]);
        right.trust([left.as_peer(), third.as_peer()]);
        let (left_link, right_link) = link(&left, &right).await;
        let (third_link, _third_there) = link(&third, &right).await;

        right.trust([third.as_peer()]);
        let code = CloseCode::UNTRUSTED;
        let told = within(left_link.handle.closed()).await;
        assert!(
            matches!(&told, LinkError::ClosedByPeer { code: c, .. } if *c == code),
            "{told}"
        );
        let here = within(right_link.handle.closed()).await;
        assert!(
            matches!(&here, LinkError::ClosedHere { code: c, .. } if *c == code),
            "{here}"
        );

        let pin = left.pin;
        let again = left.dial(&right).await.unwrap_err();
        assert_eq!(again, LinkError::RefusedByPeer(PeerRefusal::Untrusted));
        let refused = LinkError::Refused(Refusal::UnknownKey { pin });
        assert_eq!(right.refusal().await, refused);
        // Nor does it dial whom it no longer trusts.
        let dialled = right.dial(&left).await.unwrap_err();
        assert_eq!(dialled, refused);
        assert_eq!(
            left.refusal().await,
            LinkError::RefusedByPeer(PeerRefusal::Untrusted)
        );
        // The other's link is not touched.
        assert_eq!(right.endpoint.links(), 1);
        drop(third_link);
    });
}

#[test]
fn a_key_that_now_belongs_to_another_node_loses_its_link() {
    run(|net| async move {
        let (left, right, left_link, _right_link) = linked(&net, &quick()).await;
        right.trust([peer("left", NodeId::random(), left.pin)]);
        let told = within(left_link.handle.closed()).await;
        let code = CloseCode::UNTRUSTED;
        assert!(
            matches!(&told, LinkError::ClosedByPeer { code: c, .. } if *c == code),
            "{told}"
        );
    });
}

#[test]
fn keys_change_under_load_without_a_break() {
    run(|net| async move {
        let (left, right, mut left_link, mut right_link) = linked(&net, &quick()).await;
        let next = Identity::ephemeral().unwrap();
        let next_pin = next.pin();
        let piece = Bytes::from(vec![7; 100_000]);
        let flow = {
            let piece = piece.clone();
            async move {
                for _ in 0..50 {
                    left_link.data_out.send([piece.clone()]).await.unwrap();
                    let mut got = 0;
                    while got < piece.len() {
                        got += within(right_link.data_in.next()).await.unwrap().len();
                    }
                }
                (left_link, right_link)
            }
        };
        let change = async {
            // First both keys are trusted, then the node shows the new one, then the old one goes.
            right.trust([left.as_peer(), peer("left", left.id, next_pin)]);
            left.endpoint.set_identity(next).unwrap();
            let (new_link, new_there) = link(&left, &right).await;
            assert_eq!(new_there.handle.peer().pin, next_pin);
            (new_link, new_there)
        };
        let ((old_link, _old_there), (new_link, _new_there)) = tokio::join!(flow, change);
        right.trust([peer("left", left.id, next_pin)]);
        within(old_link.handle.closed()).await;
        assert_eq!(right.endpoint.links(), 1);
        drop(new_link);
    });
}

#[test]
fn a_node_neither_trusts_nor_dials_itself() {
    run(|net| async move {
        let identity = Identity::ephemeral().unwrap();
        let own = peers([peer("self", NodeId::random(), identity.pin())]);
        let started = Endpoint::start(&net, anywhere(), identity, own, LinkConfig::default()).await;
        assert!(started.unwrap_err().to_string().contains("own"));

        let node = Node::start(&net, "node", &quick()).await;
        let refused = node.endpoint.set_peers(peers([node.as_peer()]));
        assert!(refused.unwrap_err().to_string().contains("own"));
        let dialled = node.endpoint.dial(node.address, node.id).await;
        let pin = node.pin;
        let unknown = LinkError::Refused(Refusal::UnknownKey { pin });
        assert_eq!(dialled.unwrap_err(), unknown);
    });
}

#[test]
fn addresses_that_are_not_allowed_get_no_answer() {
    run(|net| async move {
        let config = LinkConfig {
            allowed_sources: vec!["192.0.2.1".parse().unwrap()],
            ..quick()
        };
        let left = Node::start(&net, "left", &quick()).await;
        let right = Node::start(&net, "right", &config).await;
        left.trust([right.as_peer()]);
        right.trust([left.as_peer()]);
        let dialled = left.dial(&right).await.unwrap_err();
        assert!(matches!(dialled, LinkError::NoAnswer { .. }), "{dialled}");
        let refusal = Refusal::Source {
            address: left.address,
        };
        assert_eq!(right.refusal().await, LinkError::Refused(refusal));
    });
}

#[test]
fn an_address_is_asked_to_prove_itself_before_anything_is_kept_for_it() {
    run(|net| async move {
        let node = guarded(&net).await;
        // The first packet of a client, sent on from an address of which nothing is known.
        let trap = UdpSocket::bind(anywhere()).unwrap();
        let client = rogue::endpoint();
        let tls = client_tls(&Papers::nothing());
        let _connecting = rogue::connecting(&client, trap.local_addr().unwrap(), tls);
        let (first, answer) = tokio::task::spawn_blocking(move || {
            trap.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut first = vec![0; 2000];
            let len = trap.recv(&mut first).unwrap();
            first.truncate(len);
            trap.send_to(&first, node.address).unwrap();
            let mut answer = vec![0; 2000];
            let len = loop {
                let (len, from) = trap.recv_from(&mut answer).unwrap();
                if from == node.address {
                    break len;
                }
            };
            answer.truncate(len);
            (first, answer)
        })
        .await
        .unwrap();
        // A long header of type Retry, and much less than was sent.
        assert_eq!(answer[0] & 0xf0, 0xf0, "{:x}", answer[0]);
        assert!(answer.len() * 3 < first.len(), "{} bytes", answer.len());
    });
}

#[test]
fn a_handshake_that_is_not_finished_is_given_up_and_keeps_nobody_out_for_ever() {
    run(|net| async move {
        let config = LinkConfig {
            handshakes_max: 1,
            idle_timeout_ms: 5_000,
            keep_alive_ms: 1_000,
            ..quick()
        };
        let node = Node::start(&net, "node", &config).await;
        let left = Node::start(&net, "left", &config).await;
        let papers = Papers::new();
        node.trust([trusting(&papers), left.as_peer()]);
        left.trust([node.as_peer()]);

        // One that is trusted, and then says nothing: it holds the only place.
        let endpoint = rogue::endpoint();
        let tls = client_tls(&papers);
        let silent = within(rogue::connecting(&endpoint, node.address, tls))
            .await
            .unwrap();
        assert_eq!(left.dial(&node).await.unwrap_err(), LinkError::NotTaken);

        let refused = node.refusal().await;
        assert!(matches!(refused, LinkError::NoAnswer { .. }), "{refused}");
        within(silent.closed()).await;
        link(&left, &node).await;
    });
}

#[test]
fn a_connection_that_moves_to_another_address_is_not_followed() {
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        let papers = Papers::new();
        node.trust([trusting(&papers)]);
        let endpoint = rogue::endpoint();
        let tls = client_tls(&papers);
        let connection = within(rogue::connecting(&endpoint, node.address, tls))
            .await
            .unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&message(LINK_VERSION, 0, &[]))
            .await
            .unwrap();
        let mut link = node.accept().await;
        send.write_all(&message(LINK_VERSION, 1, b"from here"))
            .await
            .unwrap();
        let got = within(link.messages_in.next()).await.unwrap().unwrap();
        assert_eq!(got.body, "from here");

        endpoint
            .rebind(UdpSocket::bind(anywhere()).unwrap())
            .unwrap();
        send.write_all(&message(LINK_VERSION, 1, b"from there"))
            .await
            .unwrap();
        let end = within(link.messages_in.next()).await.unwrap_err();
        assert!(matches!(end, LinkError::Silent { .. }), "{end}");
    });
}

#[test]
fn messages_that_are_none_close_the_link() {
    let mut damaged = message(LINK_VERSION, 1, b"some body");
    damaged[20] ^= 1;
    // Its beginning is enough: nobody waits for a body that is too long.
    let over = vec![0; MESSAGE_BYTES_MAX as usize + 1];
    let over = message(LINK_VERSION, 1, &over)[..100].to_vec();
    let len_bytes = MESSAGE_BYTES_MAX + 1;
    let len_max_bytes = MESSAGE_BYTES_MAX;
    let cases = [
        (damaged, EnvelopeFault::Checksum),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec(),
            EnvelopeFault::Magic,
        ),
        (
            over,
            EnvelopeFault::Length {
                len_bytes,
                len_max_bytes,
            },
        ),
    ];
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        let papers = Papers::new();
        node.trust([trusting(&papers)]);
        for (bytes, fault) in cases {
            let (mut inside, mut link) = enter(&node, &papers).await;
            let _ = inside.send.write_all(&bytes).await;
            let end = within(link.messages_in.next()).await;
            assert_eq!(end, Err(LinkError::BadMessage(fault)));
            assert_closed(&inside, CloseCode::BAD_MESSAGE, &fault.to_string()).await;
        }
        let (mut inside, mut link) = enter(&node, &papers).await;
        let cut = &message(LINK_VERSION, 1, b"some body")[..20];
        inside.send.write_all(cut).await.unwrap();
        inside.send.finish().unwrap();
        assert_eq!(
            within(link.messages_in.next()).await,
            Err(LinkError::MessagesCut)
        );
        assert_closed(&inside, CloseCode::BAD_MESSAGE, "end").await;
    });
}

#[test]
fn another_version_is_refused_with_both_named() {
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        let papers = Papers::new();
        node.trust([trusting(&papers)]);
        let version = LinkError::Version {
            ours: LINK_VERSION,
            theirs: LINK_VERSION + 1,
        };
        // In the first message already.
        let endpoint = rogue::endpoint();
        let tls = client_tls(&papers);
        let connection = within(rogue::connecting(&endpoint, node.address, tls))
            .await
            .unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&message(LINK_VERSION + 1, 0, &[]))
            .await
            .unwrap();
        assert_eq!(node.refusal().await, version);
        let closed = within(connection.closed()).await;
        let ConnectionError::ApplicationClosed(close) = closed else {
            panic!("{closed}");
        };
        assert_eq!(close.error_code, VarInt::from_u32(CloseCode::VERSION.0));
        let reason = String::from_utf8_lossy(&close.reason);
        assert!(
            reason.contains("version 2") && reason.contains("version 1"),
            "{reason}"
        );

        // Or later, in a stream of data.
        let (inside, mut link) = enter(&node, &papers).await;
        let _stream = inside.data(&data_header(LINK_VERSION + 1, 0)).await;
        assert_eq!(within(link.data_in.next()).await, Err(version));
        assert_closed(&inside, CloseCode::VERSION, "version 2").await;
    });
}

#[test]
fn data_that_is_not_what_comes_next_closes_the_link() {
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        let papers = Papers::new();
        node.trust([trusting(&papers)]);
        let header = |sequence| data_header(LINK_VERSION, sequence);
        let order = |expected, found| DataFault::Order { expected, found };

        // A stream that skips one, as the first.
        let (inside, mut link) = enter(&node, &papers).await;
        let _stream = inside.data(&header(1)).await;
        let end = within(link.data_in.next()).await;
        assert_eq!(end, Err(LinkError::BadData(order(0, 1))));
        assert_closed(&inside, CloseCode::BAD_DATA, "stream 0 should follow").await;

        // The same stream twice.
        let (inside, mut link) = enter(&node, &papers).await;
        for _ in 0..2 {
            let bytes = [header(0), b"some data".to_vec()].concat();
            inside.data(&bytes).await.finish().unwrap();
        }
        assert_eq!(within(link.data_in.next()).await.unwrap(), "some data");
        let end = within(link.data_in.next()).await;
        assert_eq!(end, Err(LinkError::BadData(order(1, 0))));
        assert_closed(&inside, CloseCode::BAD_DATA, "stream 1 should follow").await;

        // What is no stream of data, and what ends before it is one.
        let (inside, mut link) = enter(&node, &papers).await;
        inside.data(&[7; 100]).await.finish().unwrap();
        let end = within(link.data_in.next()).await;
        let fault = DataFault::Header(EnvelopeFault::Magic);
        assert_eq!(end, Err(LinkError::BadData(fault)));
        let (inside, mut link) = enter(&node, &papers).await;
        inside.data(&header(0)[..10]).await.finish().unwrap();
        let end = within(link.data_in.next()).await;
        assert_eq!(end, Err(LinkError::BadData(DataFault::Cut { sequence: 0 })));
        assert_closed(&inside, CloseCode::BAD_DATA, "ends before it began").await;

        // A stream that is taken back.
        let (inside, mut link) = enter(&node, &papers).await;
        let mut stream = inside.data(&header(0)).await;
        stream.reset(VarInt::from_u32(0)).unwrap();
        let end = within(link.data_in.next()).await;
        assert_eq!(
            end,
            Err(LinkError::BadData(DataFault::Reset { sequence: 0 }))
        );

        // A stream that is longer than one may be.
        let (inside, mut link) = enter(&node, &papers).await;
        let write = async {
            let long = [header(0), vec![7; (1 << 20) + 1]].concat();
            let mut stream = inside.connection.open_uni().await.unwrap();
            let _ = stream.write_all(&long).await;
            std::future::pending::<()>().await;
        };
        let read = async {
            loop {
                if let Err(error) = within(link.data_in.next()).await {
                    return error;
                }
            }
        };
        let end = tokio::select! {
            end = read => end,
            () = write => unreachable!(),
        };
        assert_eq!(end, LinkError::BadData(DataFault::TooLong { sequence: 0 }));
    });
}

/// Streams and datagrams that the protocol has no use for.
#[test]
fn what_is_not_offered_cannot_be_used() {
    run(|net| async move {
        let node = Node::start(&net, "node", &quick()).await;
        let papers = Papers::new();
        node.trust([trusting(&papers)]);
        let (inside, link) = enter(&node, &papers).await;
        assert_eq!(inside.connection.max_datagram_size(), None);
        let further = inside.connection.open_bi();
        let further = tokio::time::timeout(Duration::from_millis(200), further).await;
        assert!(
            further.is_err(),
            "a second stream of messages could be opened"
        );
        drop(link);
    });
}

#[test]
fn a_server_that_is_not_the_one_dialled_is_refused() {
    run(|net| async move {
        let (left, right) = Node::pair(&net, &quick()).await;
        let third = Node::start(&net, "third", &quick()).await;
        third.trust([left.as_peer()]);
        left.trust([right.as_peer(), third.as_peer()]);
        let dialled = left.endpoint.dial(third.address, right.id).await;
        let refusal = Refusal::OtherPeer {
            expected: right.id,
            node: third.id,
            name: "third".to_owned(),
        };
        assert_eq!(dialled.unwrap_err(), LinkError::Refused(refusal));
        let told = LinkError::RefusedByPeer(PeerRefusal::Untrusted);
        assert_eq!(third.refusal().await, told);
        link(&left, &third).await;
    });
}

#[test]
fn servers_with_bad_papers_are_refused() {
    run(|net| async move {
        let (left, right) = Node::pair(&net, &quick()).await;
        let stolen = certificate_of(&right).await;
        let key = KeyPair::generate().unwrap();
        let unknown = Papers::new();
        let pin = unknown.pin;
        let chain = [stolen.clone(), stolen.clone()].concat();
        for (papers, refusal, alert) in [
            (unknown, Refusal::UnknownKey { pin }, ACCESS_DENIED),
            (
                Papers::showing(stolen, &key),
                Refusal::BadSignature,
                DECRYPT_ERROR,
            ),
            (
                Papers::showing(chain, &key),
                Refusal::Certificates { count: 2 },
                ACCESS_DENIED,
            ),
            (
                Papers::showing(vec![vec![7; 300].into()], &key),
                Refusal::NotACertificate,
                BAD_CERTIFICATE,
            ),
        ] {
            let server = Server::start(&papers);
            let dial = left.endpoint.dial(server.address, right.id);
            let (dialled, verdict) = tokio::join!(dial, server.verdict());
            assert_eq!(dialled.unwrap_err(), LinkError::Refused(refusal));
            assert_alert(&verdict, alert);
        }
    });
}

#[test]
fn servers_of_another_protocol_are_refused() {
    run(|net| async move {
        let left = Node::start(&net, "left", &quick()).await;
        let refused_by = |alpn: &'static [&'static [u8]]| {
            let papers = Papers::new().speaking(alpn);
            left.trust([trusting(&papers)]);
            let server = Server::start(&papers);
            let left = &left;
            async move {
                let dial = left.endpoint.dial(server.address, NodeId([9; 16]));
                let (dialled, _) = tokio::join!(dial, server.verdict());
                dialled.unwrap_err()
            }
        };
        let other = LinkError::RefusedByPeer(PeerRefusal::OtherProtocol);
        assert_eq!(refused_by(&[b"h3"]).await, other);
        // A server that does not care what is spoken.
        let silent = refused_by(&[]).await;
        assert!(
            matches!(
                silent,
                LinkError::Refused(Refusal::OtherProtocol)
                    | LinkError::RefusedByPeer(PeerRefusal::OtherProtocol)
            ),
            "{silent}"
        );
    });
}

#[test]
fn a_server_with_the_right_key_that_never_lets_us_in_is_given_up() {
    run(|net| async move {
        let left = Node::start(&net, "left", &quick()).await;
        let papers = Papers::new();
        left.trust([trusting(&papers)]);
        let server = Server::start(&papers);
        let dial = left.endpoint.dial(server.address, NodeId([9; 16]));
        let (dialled, _) = tokio::join!(dial, server.verdict());
        let error = dialled.unwrap_err();
        assert!(matches!(error, LinkError::NoAnswer { .. }), "{error}");
    });
}

async fn enter(node: &Node, papers: &Papers) -> (Inside, Link) {
    let (inside, link) = tokio::join!(Inside::enter(node.address, papers), node.accept());
    (inside, link)
}

/// Checks what the rogue is told.
async fn assert_closed(inside: &Inside, code: CloseCode, part_of_reason: &str) {
    let closed = within(inside.connection.closed()).await;
    let ConnectionError::ApplicationClosed(close) = closed else {
        panic!("{closed}");
    };
    assert_eq!(close.error_code, VarInt::from_u32(code.0));
    let reason = String::from_utf8_lossy(&close.reason);
    assert!(reason.contains(part_of_reason), "{reason}");
}
