//! A line that loses, doubles and reorders packets: what arrives is the same.

use std::net::SocketAddr;

use bytes::Bytes;
use outlast_shipper::{LinkConfig, Message, NetHandle};
use tokio::net::UdpSocket;

use crate::harness::{Node, anywhere, run, within};

/// Of a thousand packets, how many are lost, doubled, and kept back until the next has gone.
#[derive(Clone, Copy)]
struct Faults {
    lost: u32,
    doubled: u32,
    swapped: u32,
}

/// Stands between two nodes, of which one dials, and returns the address to be dialled.
async fn relay(net: &NetHandle, to: SocketAddr, faults: Faults, seed: u64) -> SocketAddr {
    let near = UdpSocket::bind(anywhere()).await.unwrap();
    let far = UdpSocket::bind(anywhere()).await.unwrap();
    let address = near.local_addr().unwrap();
    net.spawn("relay", async move {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut kept: [Option<Vec<u8>>; 2] = [None, None];
        let mut from = None;
        let (mut out, mut back) = ([0; 65_536], [0; 65_536]);
        loop {
            let (direction, packet, socket, to) = tokio::select! {
                got = near.recv_from(&mut out) => {
                    let Ok((len, who)) = got else { continue };
                    from = Some(who);
                    (0, &out[..len], &far, Some(to))
                }
                got = far.recv_from(&mut back) => {
                    let Ok((len, _)) = got else { continue };
                    (1, &back[..len], &near, from)
                }
            };
            let Some(to) = to else { continue };
            let mut dice = |of_thousand| rng.u32(..1000) < of_thousand;
            if dice(faults.lost) {
                continue;
            }
            if kept[direction].is_none() && dice(faults.swapped) {
                kept[direction] = Some(packet.to_vec());
                continue;
            }
            let copies = if dice(faults.doubled) { 2 } else { 1 };
            for _ in 0..copies {
                let _ = socket.send_to(packet, to).await;
            }
            if let Some(late) = kept[direction].take() {
                let _ = socket.send_to(&late, to).await;
            }
        }
    });
    address
}

fn number(i: u32) -> Bytes {
    let body = i.to_le_bytes().repeat(2_500);
    body.into()
}

#[test]
fn messages_and_data_survive_a_bad_line() {
    const PIECES: u32 = 800;
    let faults = Faults {
        lost: 20,
        doubled: 20,
        swapped: 50,
    };
    run(|net| async move {
        let (left, right) = Node::pair(&net, &LinkConfig::default()).await;
        let between = relay(&net, right.address, faults, 7).await;
        let dial = left.endpoint.dial(between, right.id);
        let (dialled, accepted) = tokio::join!(dial, right.accept());
        let (mut left, mut right) = (dialled.unwrap(), accepted);

        let send = async {
            for i in 0..PIECES {
                left.data_out.send([number(i)]).await.unwrap();
                if i % 8 == 0 {
                    let body = number(i);
                    left.messages_out
                        .send(&Message { kind: 1, body })
                        .await
                        .unwrap();
                }
            }
        };
        let read_data = async {
            let expected: Vec<u8> = (0..PIECES).flat_map(number).collect();
            let mut at = 0;
            while at < expected.len() {
                let got = within(right.data_in.next()).await.unwrap();
                assert!(got == expected[at..at + got.len()], "at {at}");
                at += got.len();
            }
        };
        let read_messages = async {
            for i in (0..PIECES).step_by(8) {
                let got = within(right.messages_in.next()).await.unwrap().unwrap();
                assert!(got.body == number(i), "message {i}");
            }
        };
        tokio::join!(send, read_data, read_messages);
        let stats = left.handle.stats();
        assert!(stats.lost_packets > 50, "{stats:?}");
    });
}
