//! Answers on their way to one client.

use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::protocol::{self, Answer};

/// So many bytes at most go out by one write, unless one answer is longer.
const WRITE_BYTES: usize = 1 << 20;

/// How much may wait for one client to take it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Answers.
    pub(super) answers: usize,
    /// Bytes of them, unless one answer is longer.
    pub(super) bytes: u32,
}

/// Where the answers to one client are put.
///
/// Every answer that is put here reaches the client in its turn, or the connection is closed:
/// none is left out.
#[derive(Clone)]
pub(super) struct Outbox {
    answers: mpsc::Sender<Encoded>,
    room: Arc<Semaphore>,
    bytes_max: u32,
    cut_off: Arc<Notify>,
}

/// An answer as it goes out, which holds its room until it is written.
struct Encoded {
    bytes: Vec<u8>,
    room: OwnedSemaphorePermit,
}

impl Outbox {
    /// Starts to write answers, of which so many may wait.
    pub(super) fn open(writer: impl AsyncWrite + Unpin + Send + 'static, limits: Limits) -> Self {
        let (answers, waiting) = mpsc::channel(limits.answers);
        let cut_off = Arc::new(Notify::new());
        tokio::spawn(write(writer, waiting, cut_off.clone()));
        let bytes_max = limits.bytes;
        Self {
            answers,
            room: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
            cut_off,
        }
    }

    /// Puts an answer in, when there is room. `false` once the client is gone.
    pub(super) async fn send(&self, answer: Answer) -> bool {
        let Some(bytes) = self.encode(&answer) else {
            return false;
        };
        let taken = self.room.clone().acquire_many_owned(self.cost(&bytes));
        let room = tokio::select! {
            taken = taken => taken,
            () = self.answers.closed() => return false,
        };
        // Nobody closes it while this is here.
        let Ok(room) = room else { return false };
        let encoded = Encoded { bytes, room };
        self.answers.send(encoded).await.is_ok()
    }

    /// The same on a thread that may block.
    pub(super) fn blocking_send(&self, answer: Answer) -> bool {
        tokio::runtime::Handle::current().block_on(self.send(answer))
    }

    /// Puts an answer in from where nothing may wait. A client that takes none of its answers is
    /// cut off rather than waited for.
    pub(super) fn tell(&self, answer: Answer) {
        let Some(bytes) = self.encode(&answer) else {
            return;
        };
        let cost = self.cost(&bytes);
        let Ok(room) = self.room.clone().try_acquire_many_owned(cost) else {
            return self.cut_off.notify_one();
        };
        let encoded = Encoded { bytes, room };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.answers.try_send(encoded) {
            self.cut_off.notify_one();
        }
    }

    /// Waits until no answer can reach the client any more.
    pub(super) async fn closed(&self) {
        self.answers.closed().await;
    }

    /// The bytes of an answer. One that has none ends the connection, since it cannot be left out.
    fn encode(&self, answer: &Answer) -> Option<Vec<u8>> {
        match protocol::encode(answer) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::error!(%error, "an answer could not be written");
                self.cut_off.notify_one();
                None
            }
        }
    }

    /// The room that an answer takes: one that is longer than all of it goes alone.
    fn cost(&self, bytes: &[u8]) -> u32 {
        u32::try_from(bytes.len()).map_or(self.bytes_max, |len| len.min(self.bytes_max))
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Encoded>,
    cut_off: Arc<Notify>,
) {
    tokio::select! {
        () = write_all(&mut writer, &mut answers) => {}
        () = cut_off.notified() => {
            tracing::warn!("a client that does not take its answers was cut off");
        }
    }
}

/// Writes until there will be no more answers, or nobody takes them.
async fn write_all(writer: &mut (impl AsyncWrite + Unpin), answers: &mut mpsc::Receiver<Encoded>) {
    let mut bytes = Vec::new();
    let mut rooms = Vec::new();
    while let Some(first) = answers.recv().await {
        bytes.clear();
        let mut next = Some(first);
        // Whatever waits goes out by one write.
        while let Some(answer) = next {
            bytes.extend_from_slice(&answer.bytes);
            rooms.push(answer.room);
            next = if bytes.len() < WRITE_BYTES {
                answers.try_recv().ok()
            } else {
                None
            };
        }
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
        rooms.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::super::protocol::Reply;
    use super::*;

    fn answer(id: u64) -> Answer {
        let reply = Reply::Value(Some(vec![7; 32 << 10]));
        let last = true;
        Answer { id, last, reply }
    }

    #[test]
    fn a_client_that_takes_no_answers_is_cut_off_and_misses_none_before() {
        // By their number, and by their bytes.
        for (answers, bytes) in [(4, 64 << 20), (65_536, 128 << 10)] {
            cuts_off(Limits { answers, bytes });
        }
    }

    fn cuts_off(limits: Limits) {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let near = tokio::net::UnixStream::from_std(near).unwrap();
            let outbox = Outbox::open(near, limits);
            // More than the socket and the outbox hold; nobody reads at the other end.
            for id in 0..1000 {
                outbox.tell(answer(id));
                tokio::task::yield_now().await;
            }
            let deadline = std::time::Duration::from_secs(20);
            let cut_off = tokio::time::timeout(deadline, outbox.closed()).await;
            assert!(cut_off.is_ok(), "answers were left out");
            assert!(!outbox.send(answer(1000)).await);
        });
        let mut far = BufReader::new(far);
        let mut taken = 0;
        // The last one may be cut in its middle.
        while let Ok(Some(answer)) = protocol::read::<Answer>(&mut far) {
            assert_eq!(answer.id, taken);
            taken += 1;
        }
        assert!(taken > 0);
    }

    #[test]
    fn an_answer_waits_for_the_bytes_before_it_to_be_taken_and_a_long_one_goes_alone() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (near, mut far) = tokio::io::duplex(1);
            // Each answer is longer than all that may wait.
            let limits = Limits {
                answers: 100,
                bytes: 20 << 10,
            };
            let outbox = Outbox::open(near, limits);
            assert!(outbox.send(answer(0)).await);
            {
                let mut second = std::pin::pin!(outbox.send(answer(1)));
                for _ in 0..10 {
                    let sent = futures_poll(second.as_mut()).await;
                    assert!(sent.is_none(), "it is kept beside the first");
                    tokio::task::yield_now().await;
                }
                let mut first = vec![0; protocol::encode(&answer(0)).unwrap().len()];
                tokio::io::AsyncReadExt::read_exact(&mut far, &mut first)
                    .await
                    .unwrap();
                assert!(second.await);
            }
            drop(far);
            outbox.closed().await;
            assert!(!outbox.send(answer(2)).await);
        });
    }

    /// What a future has given, if it is ready now.
    async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
