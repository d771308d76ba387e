//! The clients of a relay, each with a socket of its own towards the destination.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::socket::Socket;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) socket: Socket,
    last_seen: Duration,
}

#[derive(Debug)]
pub(super) struct Clients {
    to: SocketAddr,
    list: Vec<Client>,
    places: HashMap<SocketAddr, usize>,
}

/// A client that reconnects from new ports takes the place of the one not heard of for longest.
const CLIENTS_MAX: usize = 128;

impl Clients {
    pub(super) fn new(to: SocketAddr) -> Self {
        Self {
            to,
            list: Vec::new(),
            places: HashMap::new(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.list.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn nth(&self, place: usize) -> Option<&Client> {
        self.list.get(place)
    }

    /// The client with this address, if it has a socket.
    pub(super) fn find(&self, address: SocketAddr) -> Option<&Client> {
        self.places
            .get(&address)
            .and_then(|place| self.list.get(*place))
    }

    /// Notes that the client was heard of, and makes its socket if it has none.
    pub(super) fn heard_of(&mut self, address: SocketAddr, now: Duration) -> io::Result<()> {
        let known = self
            .places
            .get(&address)
            .and_then(|place| self.list.get_mut(*place));
        if let Some(client) = known {
            client.last_seen = now;
            return Ok(());
        }
        let client = Client {
            address,
            socket: Socket::bind(local_for(self.to))?,
            last_seen: now,
        };
        if self.list.len() < CLIENTS_MAX {
            self.places.insert(address, self.list.len());
            self.list.push(client);
            return Ok(());
        }
        let longest = self
            .list
            .iter_mut()
            .enumerate()
            .min_by_key(|(_, client)| client.last_seen);
        if let Some((place, silent)) = longest {
            self.places.remove(&silent.address);
            self.places.insert(address, place);
            *silent = client;
        }
        Ok(())
    }
}

/// Where a socket that sends to `to` is bound.
fn local_for(to: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match to.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(ip) if ip.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silent_client_makes_room() {
        let client = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut clients = Clients::new(client(9));
        let mut now = Duration::ZERO;
        for port in 1..=u16::try_from(CLIENTS_MAX).unwrap() {
            now += Duration::from_secs(1);
            clients.heard_of(client(port), now).unwrap();
        }
        clients
            .heard_of(client(1), now + Duration::from_secs(1))
            .unwrap();
        clients
            .heard_of(client(1000), now + Duration::from_secs(2))
            .unwrap();
        assert_eq!(clients.len(), CLIENTS_MAX);
        assert!(clients.find(client(1)).is_some() && clients.find(client(2)).is_none());
        assert_eq!(
            clients.find(client(1000)).map(|c| c.address),
            Some(client(1000))
        );
        assert!(
            clients
                .iter()
                .all(|c| clients.find(c.address).map(|f| f.address) == Some(c.address))
        );
    }
}
