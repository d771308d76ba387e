//! Answers on their way to one client.

use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use super::protocol::{self, Answer};

/// So many bytes at most go out by one write, unless one answer is longer.
const WRITE_BYTES: usize = 1 << 20;

/// Where the answers to one client are put.
///
/// Every answer that is put here reaches the client in its turn, or the connection is closed:
/// none is left out.
#[derive(Clone)]
pub(super) struct Outbox {
    answers: mpsc::Sender<Answer>,
    cut_off: Arc<Notify>,
}

impl Outbox {
    /// Starts to write answers, of which `answers_max` may wait.
    pub(super) fn open(
        writer: impl AsyncWrite + Unpin + Send + 'static,
        answers_max: usize,
    ) -> Self {
        let (answers, waiting) = mpsc::channel(answers_max);
        let cut_off = Arc::new(Notify::new());
        tokio::spawn(write(writer, waiting, cut_off.clone()));
        Self { answers, cut_off }
    }

    /// Puts an answer in, when there is room. `false` once the client is gone.
    pub(super) async fn send(&self, answer: Answer) -> bool {
        self.answers.send(answer).await.is_ok()
    }

    /// The same on a thread that may block.
    pub(super) fn blocking_send(&self, answer: Answer) -> bool {
        self.answers.blocking_send(answer).is_ok()
    }

    /// Puts an answer in from where nothing may wait. A client that takes none of its answers is
    /// cut off rather than waited for.
    pub(super) fn tell(&self, answer: Answer) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.answers.try_send(answer) {
            self.cut_off.notify_one();
        }
    }

    /// Waits until no answer can reach the client any more.
    pub(super) async fn closed(&self) {
        self.answers.closed().await;
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Answer>,
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
async fn write_all(writer: &mut (impl AsyncWrite + Unpin), answers: &mut mpsc::Receiver<Answer>) {
    let mut bytes = Vec::new();
    while let Some(first) = answers.recv().await {
        bytes.clear();
        let mut next = Some(first);
        // Whatever waits goes out by one write.
        while let Some(answer) = next {
            match protocol::encode(&answer) {
                Ok(encoded) => bytes.extend_from_slice(&encoded),
                Err(error) => return tracing::error!(%error, "an answer could not be written"),
            }
            next = if bytes.len() < WRITE_BYTES {
                answers.try_recv().ok()
            } else {
                None
            };
        }
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
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
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let near = tokio::net::UnixStream::from_std(near).unwrap();
            let outbox = Outbox::open(near, 4);
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
}
