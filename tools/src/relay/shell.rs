//! The thread of a relay: sockets, a clock and the heaps around the two [`Line`]s.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;

use super::clients::Clients;
use super::held::{Datagram, Held};
use super::line::{Fate, Line, LineCounts};
use super::settings::{LineSettings, Lines, Settings};
use super::socket::{Burst, Inbox, Socket};

/// What has become of all datagrams so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RelayStats {
    /// From the clients to the destination.
    pub up: LineCounts,
    /// Of those, how many are under way.
    pub up_under_way: usize,
    /// From the destination to the clients.
    pub down: LineCounts,
    /// Of those, how many are under way.
    pub down_under_way: usize,
    /// How many clients have a socket.
    pub clients: usize,
    /// Datagrams that the kernel dropped because the relay did not read fast enough: a loss that
    /// was not drawn. A run in which this is not 0 was not the run that was asked for.
    pub kernel_dropped: u64,
}

/// What a handle asks the thread for.
pub(super) enum Request {
    Change(Lines, Sender<()>),
    Stats(Sender<RelayStats>),
    Stop,
}

/// Everything that the thread owns.
pub(super) struct Shell {
    to: SocketAddr,
    listen: Socket,
    clients: Clients,
    up: Way,
    down: Way,
    inbox: Inbox,
    burst: Burst,
    requests: Receiver<Request>,
    wake: Arc<OwnedFd>,
    origin: Instant,
}

/// One direction: what decides, and what is under way.
struct Way {
    line: Line,
    held: Held,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// Who has sent something.
enum Ready {
    Clients,
    Destination { place: usize },
}

impl Shell {
    pub(super) fn new(
        settings: &Settings,
        listen: Socket,
        requests: Receiver<Request>,
        wake: Arc<OwnedFd>,
    ) -> Self {
        let lines = settings.lines.clone();
        let (up, down) = Line::pair(lines.up, lines.down, settings.seed);
        Self {
            to: settings.to,
            listen,
            clients: Clients::new(settings.to),
            up: Way {
                line: up,
                held: Held::default(),
            },
            down: Way {
                line: down,
                held: Held::default(),
            },
            inbox: Inbox::new(),
            burst: Burst::default(),
            requests,
            wake,
            origin: Instant::now(),
        }
    }

    /// Runs until it is told to stop or its handle is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        // The kernel may otherwise let a timer run 50 us late, to save power.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        loop {
            if !self.obey() {
                return Ok(());
            }
            self.deliver(Direction::Up);
            self.deliver(Direction::Down);
            for ready in self.wait()? {
                self.receive(&ready)?;
            }
        }
    }

    /// Answers what was asked; false when it is time to stop.
    fn obey(&mut self) -> bool {
        loop {
            match self.requests.try_recv() {
                // Whoever asked may have gone; that is no reason to stop.
                Ok(Request::Change(lines, done)) => {
                    self.up.change(lines.up);
                    self.down.change(lines.down);
                    let _ = done.send(());
                }
                Ok(Request::Stats(answer)) => {
                    let _ = answer.send(self.stats());
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Ok(Request::Stop) | Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    return false;
                }
            }
        }
    }

    /// Sends on what is due.
    fn deliver(&mut self, direction: Direction) {
        let now = self.origin.elapsed();
        let mut client = None;
        while let Some(datagram) = self.way(direction).held.pop_due(now) {
            let max = self.max_burst(direction, datagram.client);
            let joins = client == Some(datagram.client)
                && self.burst.takes(datagram.ecn, datagram.bytes.len(), max);
            if !joins {
                self.send_burst(direction, client);
                client = Some(datagram.client);
            }
            self.burst.push(datagram.ecn, &datagram.bytes);
        }
        self.send_burst(direction, client);
    }

    fn max_burst(&self, direction: Direction, client: SocketAddr) -> usize {
        match direction {
            Direction::Up => self
                .clients
                .find(client)
                .map_or(1, |client| client.socket.max_burst()),
            Direction::Down => self.listen.max_burst(),
        }
    }

    fn send_burst(&mut self, direction: Direction, client: Option<SocketAddr>) {
        let Some(client) = client else {
            return;
        };
        let (taken, taken_bytes) = match direction {
            Direction::Up => match self.clients.find(client) {
                Some(client) => client.socket.send(self.to, &self.burst),
                None => (0, 0),
            },
            Direction::Down => self.listen.send(client, &self.burst),
        };
        let refused = self.burst.datagrams() - taken;
        self.burst.clear();
        let counts = self.way(direction).line.counts_mut();
        counts.delivered += taken as u64;
        counts.delivered_bytes += taken_bytes as u64;
        counts.unsent += refused as u64;
    }

    /// Sleeps until something arrives, is due or is asked for.
    fn wait(&self) -> io::Result<Vec<Ready>> {
        let due = [&self.up, &self.down]
            .iter()
            .filter_map(|way| way.held.next_due())
            .min();
        let timeout = due.map(|due| due.saturating_sub(self.origin.elapsed()));
        let timeout = timeout.map(rustix::time::Timespec::try_from).transpose();
        let timeout = timeout.map_err(io::Error::other)?;
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        fds.push(PollFd::new(&self.listen, PollFlags::IN));
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(&client.socket, PollFlags::IN)),
        );
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            let mut counter = [0; 8];
            // Only empties it, so that it does not wake again.
            let _ = rustix::io::read(&*self.wake, &mut counter);
        }
        let clients = ready
            .next()
            .and_then(|ready| ready.then_some(Ready::Clients));
        let destinations = ready
            .enumerate()
            .filter(|(_, ready)| *ready)
            .map(|(place, _)| Ready::Destination { place });
        Ok(clients.into_iter().chain(destinations).collect())
    }

    /// Reads one batch and decides about it.
    fn receive(&mut self, ready: &Ready) -> io::Result<()> {
        let now = self.origin.elapsed();
        match *ready {
            Ready::Clients => self.inbox.receive(&self.listen, |address, ecn, bytes| {
                // Without a socket towards the destination it is counted when it is due.
                if let Err(error) = self.clients.heard_of(address, now) {
                    tracing::warn!(%address, %error, "no socket for a client of the relay");
                }
                self.up.offer(
                    now,
                    Datagram {
                        client: address,
                        ecn,
                        bytes,
                    },
                );
            }),
            Ready::Destination { place } => {
                let Some(client) = self.clients.nth(place) else {
                    return Ok(());
                };
                let to = self.to;
                self.inbox.receive(&client.socket, |from, ecn, bytes| {
                    if from == to {
                        self.down.offer(
                            now,
                            Datagram {
                                client: client.address,
                                ecn,
                                bytes,
                            },
                        );
                    }
                })
            }
        }
    }

    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    fn stats(&self) -> RelayStats {
        RelayStats {
            up: *self.up.line.counts(),
            up_under_way: self.up.held.len(),
            down: *self.down.line.counts(),
            down_under_way: self.down.held.len(),
            clients: self.clients.len(),
            kernel_dropped: self.kernel_dropped(),
        }
    }

    fn kernel_dropped(&self) -> u64 {
        let sockets = self
            .clients
            .iter()
            .map(|client| &client.socket)
            .chain([&self.listen]);
        let inodes: HashSet<u64> = sockets
            .filter_map(|socket| rustix::fs::fstat(socket).ok())
            .map(|stat| stat.st_ino)
            .collect();
        ["/proc/net/udp", "/proc/net/udp6"]
            .iter()
            .filter_map(|table| std::fs::read_to_string(table).ok())
            .map(|table| dropped_by(&inodes, &table))
            .sum()
    }
}

impl Way {
    /// Decides about a datagram and keeps it until it is due.
    fn offer(&mut self, now: Duration, datagram: Datagram) {
        let Fate::Delivered { at, copy_at } = self.line.offer(now, datagram.bytes.len()) else {
            return;
        };
        let Datagram { client, ecn, bytes } = datagram;
        for due in [Some(at), copy_at].into_iter().flatten() {
            let datagram = Datagram {
                client,
                ecn,
                bytes: bytes.clone(),
            };
            if self.held.push(due, datagram).is_err() {
                self.line.counts_mut().unsent += 1;
            }
        }
    }

    /// A cut takes what is under way with it.
    fn change(&mut self, settings: LineSettings) {
        if settings.cut {
            self.line.counts_mut().cut += self.held.clear() as u64;
        }
        self.line.change(settings);
    }
}

/// Sums the drops of the sockets with these inodes in a table like `/proc/net/udp`.
fn dropped_by(inodes: &HashSet<u64>, table: &str) -> u64 {
    const INODE: usize = 9;
    let drops = |row: &str| -> Option<u64> {
        let inode = row.split_whitespace().nth(INODE)?.parse().ok()?;
        let drops = row.split_whitespace().next_back()?.parse().ok()?;
        inodes.contains(&inode).then_some(drops)
    };
    table.lines().filter_map(drops).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_kernels_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                     uid  timeout inode ref pointer drops\n\
                     1: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000     0  \
                     0 4711 2 0000000000000000 42\n\
                     2: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0  \
                     0 4712 2 0000000000000000 7\n";
        assert_eq!(dropped_by(&HashSet::from([4711]), table), 42);
        assert_eq!(dropped_by(&HashSet::from([4711, 4712]), table), 49);
        assert_eq!(dropped_by(&HashSet::from([99]), table), 0);
    }
}
