use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use outlast_engine::Level;
use outlast_proto::{ReceiverInput, ReceiverPhase};
use outlast_shipper::LinkHandle;

use super::*;
use crate::node::Node;
use crate::support::{Pair, options, put, until, until_promotable};

/// A line to one address, for one that dials, until it is cut.
struct Line {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Line {
    fn to(server: SocketAddr) -> Self {
        let near = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        far.connect(server).unwrap();
        let address = near.local_addr().unwrap();
        let (cut, ended) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let dialler = Arc::new(parking_lot::Mutex::new(None));
        for outwards in [true, false] {
            let (near, far, dialler) = (near.clone(), far.clone(), dialler.clone());
            let (cut, ended) = (cut.clone(), ended.clone());
            let from = if outwards { near.clone() } else { far.clone() };
            from.set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            thread::spawn(move || {
                let mut datagram = [0; 65536];
                while !ended.load(Ordering::Relaxed) {
                    // Nobody at the other end, or nothing came: both pass.
                    let Ok((len, source)) = from.recv_from(&mut datagram) else {
                        continue;
                    };
                    if cut.load(Ordering::SeqCst) {
                        continue;
                    }
                    if outwards {
                        *dialler.lock() = Some(source);
                        let _ = far.send(&datagram[..len]);
                    } else if let Some(dialler) = *dialler.lock() {
                        let _ = near.send_to(&datagram[..len], dialler);
                    }
                }
            });
        }
        Self {
            address,
            cut,
            ended,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn is_open(node: &Node, link: LinkHandle) -> bool {
    let looked = async move {
        let closed = tokio::time::timeout(Duration::ZERO, link.closed());
        closed.await.is_err()
    };
    node.inner.net.wait("look", looked).unwrap()
}

#[test]
fn a_peer_that_takes_no_last_words_does_not_hold_the_withdrawal() {
    let pair = Pair::patient();
    let line = Line::to(pair.address("b"));
    pair.dial("a", "b", line.address);
    let (a, b) = (pair.start("a"), pair.start("b"));
    put(&a, "one", Level::Applied).unwrap();
    let link = b.inner.peer_view.lock().link.clone().unwrap();
    line.cut.store(true, Ordering::SeqCst);
    b.inner.withdraw().unwrap();
    assert!(
        is_open(&b, link),
        "the withdrawal waited until the link was closed"
    );
}

#[test]
fn a_primary_that_comes_back_before_the_withdrawal_is_not_replaced() {
    let pair = Pair::patient();
    let (a, b) = (pair.start("a"), pair.start("b"));
    put(&a, "one", Level::Applied).unwrap();
    a.stop().unwrap();
    until_promotable(&b);
    // What the follower is told goes through here, so that the primary can be back in time.
    let (commands, mut held) = tokio::sync::mpsc::unbounded_channel();
    let follower = b.inner.follower.lock().take().unwrap();
    *b.inner.follower.lock() = Some(Arc::new(follower.behind(commands)));
    let (certificate, a) = thread::scope(|scope| {
        let promoting = scope.spawn(|| b.inner.promote(&options()).unwrap());
        let withdrawal = held.blocking_recv().unwrap();
        assert!(matches!(withdrawal, Command::Withdraw(_)));
        let a = pair.start("a");
        until("the primary is heard again", || {
            while let Ok(command) = held.try_recv() {
                follower.tell(command).ok().unwrap();
            }
            follower.silence() < Duration::from_secs(1)
        });
        follower.tell(withdrawal).ok().unwrap();
        // Nothing more comes once it is a primary.
        if let Some(command) = held.blocking_recv() {
            follower.tell(command).ok().unwrap();
        }
        (promoting.join().unwrap(), a)
    });
    let refused = matches!(certificate.outcome, Outcome::Refused { .. });
    assert!(refused, "{:?}", certificate.outcome);
    *b.inner.follower.lock() = Some(follower);
    assert_eq!(b.status().role, Role::Standby);
    put(&a, "two", Level::Applied).unwrap();
}

#[test]
fn a_standby_whose_log_failed_stays_failed_and_can_be_promoted() {
    let (_pair, a, b) = Pair::met();
    a.stop().unwrap();
    until_promotable(&b);
    let follower = b.inner.follower.lock().clone().unwrap();
    follower.give(ReceiverInput::LogFailed);
    // What a promotion that is given up does.
    b.inner.withdraw().unwrap();
    b.inner.tell_follower(Command::Reinstate);
    b.inner.withdraw().unwrap();
    assert_eq!(follower.status().phase, ReceiverPhase::Failed);
    let certificate = b.promote(&options()).unwrap();
    assert_eq!(certificate.outcome, Outcome::Promoted);
    put(&b, "two", Level::Local).unwrap();
}

#[test]
fn a_task_that_panicked_is_shown_and_its_node_is_promoted_without_its_process() {
    let (pair, a, b) = Pair::met();
    // An input whose outputs its task knows nothing of.
    let follower = b.inner.follower.lock().clone().unwrap();
    follower.give(ReceiverInput::Stop);
    drop(follower);
    until(
        "the role shows it",
        || matches!(b.status().role, Role::NotFollowing { reason } if reason.contains("undrained")),
    );
    let warnings = b.status().warnings;
    assert!(
        warnings.iter().any(|it| it.contains("`follow`")),
        "{warnings:?}"
    );
    until("the primary is turned away", || {
        let closed = a.status().peer.unwrap().last_close;
        closed.is_some_and(|why| why.contains("LogFailed"))
    });
    drop(a);
    until("silence", || {
        let promoted = b.promote(&options());
        promoted.is_err_and(|error| error.to_string().contains("undrained"))
    });
    drop(b);
    let certificate = promote_offline(&pair.path("b"), &options()).unwrap();
    assert_eq!(certificate.outcome, Outcome::Promoted);
}

#[test]
fn a_dry_run_without_a_process_says_what_the_promotion_then_does() {
    let (pair, a, b) = Pair::met();
    let sync = outlast_proto::Policy::sync(Duration::from_millis(500));
    a.set_policy(sync, outlast_proto::Action::Stall, "test")
        .unwrap();
    put(&a, "one", Level::Applied).unwrap();
    // What a kill leaves before the first mark of what is durable was due.
    let (from, killed) = (pair.path("b"), pair.path("killed"));
    copy_tree(&from, &killed);
    let mark = killed.join("mark");
    let len = std::fs::metadata(&mark).unwrap().len();
    std::fs::write(&mark, vec![0; usize::try_from(len).unwrap()]).unwrap();
    drop((a, b));
    let accepting = PromoteOptions {
        accept_loss: Some(crate::certificate::AcceptedLoss::Commits(0)),
        primary_is_down: true,
        ..options()
    };
    let dry_run = PromoteOptions {
        dry_run: true,
        ..accepting.clone()
    };
    let told = promote_offline(&killed, &dry_run).unwrap();
    assert_eq!(
        told.positions.durable,
        outlast_engine::format::Position::ZERO
    );
    let done = promote_offline(&killed, &accepting).unwrap();
    assert_eq!(
        (told.outcome, done.outcome),
        (Outcome::WouldPromote, Outcome::Promoted)
    );
    assert_eq!(told.bound, done.bound);
    assert_eq!(done.bound.known().unwrap().commits, Some(0));
}

/// Copies what a node has in files, but for its index.
fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() && entry.file_name() != "index" {
            copy_tree(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
