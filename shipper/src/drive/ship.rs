//! The primary's side of one session over a link: the loop around a [`Shipping`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outlast_engine::Store;
use outlast_proto::{CloseReason, MonoTime, Sender, SenderInput};
use tokio::sync::{Notify, watch};

use super::boot_clock::boot_time;
use super::reads::LogReads;
use super::shipping::{ShipHooks, ShipOutput, Shipping};
use super::wire::{Wire, WireEvent};
use crate::Link;
use crate::error::{CloseCode, LinkError};

/// What one session needs.
pub struct Shipment {
    /// The store whose log is shipped (or, before its epoch, whose tail is fetched back).
    pub store: Store,
    /// Told whenever the store's positions or state moved.
    pub changed: Arc<Notify>,
    /// Told when the session must end. What was told before it was subscribed to counts for
    /// nothing.
    pub ends: watch::Receiver<SessionEnd>,
    /// The node, called on the network's thread.
    pub hooks: Arc<dyn ShipHooks>,
}

/// Why a node ends its sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionEnd {
    /// What the node may do has changed; another session may follow.
    EpochBegins,
    /// The node closes.
    Stop,
}

/// How a session ended.
#[derive(Debug)]
pub enum Ended {
    /// The protocol ended it.
    Session(CloseReason),
    /// The link under it went away.
    Link(LinkError),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(reason) => reason.fmt(f),
            Self::Link(error) => error.fmt(f),
        }
    }
}

/// Runs one session to its end.
pub async fn ship(link: Link, sender: Sender, shipment: Shipment) -> Ended {
    let Shipment {
        store,
        changed,
        mut ends,
        hooks,
    } = shipment;
    let mut wire = Wire::new(link);
    let mut reads = LogReads::new(store.clone());
    let mut shipping = Shipping::new(sender, store, hooks);
    loop {
        while let Some(output) = shipping.poll_output(boot_time()) {
            match output {
                ShipOutput::Send(message) => {
                    if let Err(error) = wire.push(&message) {
                        return Ended::Link(error);
                    }
                }
                ShipOutput::Data(header, bytes) => wire.push_data(&header, bytes),
                ShipOutput::Read { from, max_bytes } => {
                    if let Some(bytes) = reads.read(from, max_bytes) {
                        shipping.read_done(from, bytes);
                    }
                }
                ShipOutput::Close(reason) => {
                    let code = match reason {
                        CloseReason::Ended(_) => CloseCode::STOPPING,
                        _ => CloseCode::DONE,
                    };
                    wire.close(code, &reason.to_string()).await;
                    return Ended::Session(reason);
                }
            }
        }
        let wake_at = shipping.poll_timeout();
        let input = tokio::select! {
            biased;
            told = ends.changed() => match told {
                Ok(()) if *ends.borrow() == SessionEnd::EpochBegins => SenderInput::EpochBegins,
                _ => SenderInput::Stop,
            },
            event = wire.event() => match event {
                WireEvent::Message(message) => SenderInput::Message(message),
                WireEvent::RunStart(header) => SenderInput::RunStart(header),
                WireEvent::RunBytes(bytes) => SenderInput::RunBytes(bytes),
                WireEvent::MessagesFlushed => SenderInput::ControlFlushed,
                WireEvent::DataFlushed => continue,
                WireEvent::Ended(error) => {
                    shipping.handle(boot_time(), SenderInput::Disconnected);
                    return Ended::Link(error);
                }
            },
            () = changed.notified() => {
                shipping.look(boot_time());
                continue;
            }
            (from, bytes) = reads.finished() => {
                shipping.read_done(from, bytes);
                continue;
            }
            () = sleep_until(wake_at) => SenderInput::Timeout,
        };
        shipping.handle(boot_time(), input);
    }
}

/// Sleeps until a moment of the boot clock; for ever if there is none.
pub async fn sleep_until(at: Option<MonoTime>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(boot_time()).max(Duration::ZERO)).await,
        None => std::future::pending().await,
    }
}
