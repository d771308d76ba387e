//! Nothing of a key, nor of what is sent, is ever logged, however much is logged.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use outlast_engine::format::NodeId;
use outlast_shipper::{Endpoint, Identity, Message};
use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

use crate::harness::{Node, anywhere, peer, peers, quick, run, within};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
fn nothing_secret_is_logged() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .init();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    Identity::create(&path).unwrap();
    let pem = std::fs::read_to_string(&path).unwrap();
    run(|net| async move {
        let identity = Identity::load(&path).unwrap();
        let (id, pin) = (NodeId::random(), identity.pin());
        let right = Node::start(&net, "right", &quick()).await;
        right.trust([peer("left", id, pin)]);
        let trusted = peers([right.as_peer()]);
        let started = Endpoint::start(&net, anywhere(), identity, trusted, quick()).await;
        let left = started.unwrap();
        let dial = left.dial(right.address, right.id);
        let (dialled, accepted) = tokio::join!(dial, right.accept());
        let (mut left, mut right) = (dialled.unwrap(), accepted);

        let secret = Message {
            kind: 1,
            body: Bytes::from_static(b"canary-in-a-message"),
        };
        left.messages_out.send(&secret).await.unwrap();
        within(right.messages_in.next()).await.unwrap();
        let data = Bytes::from_static(b"canary-in-data");
        left.data_out.send([data]).await.unwrap();
        within(right.data_in.next()).await.unwrap();
    });

    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(
        log.contains("ClientHello") && log.contains("STREAM"),
        "{log}"
    );
    assert!(!log.contains("canary"), "{log}");
    for line in pem.lines().filter(|line| !line.starts_with('-')) {
        assert!(!log.contains(line), "{log}");
    }
}
