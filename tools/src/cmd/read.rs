//! `outlast get`, `scan`, `digest` and `tail`: reading a running node.

use clap::Args;
use outlast_engine::Lsn;
use outlast_standby::control::protocol::{Ask, Reply, WireChange, WireDone};
use outlast_tools::exit::Exit;
use serde_json::{Value, json};

use crate::Global;
use crate::failure::Failure;
use crate::node::{failed, unexpected};

/// Print the value of a key
#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    state: State,
    /// The key
    key: String,
}

/// Print keys and values, in key order
#[derive(Debug, Args)]
pub(crate) struct Scan {
    #[command(flatten)]
    state: State,
    /// Only keys that begin with this
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only keys from here on
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// Only keys before this
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
    /// Last key first
    #[arg(long)]
    reverse: bool,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Print count and SHA-256 of the live state of a keyspace
///
/// The SHA-256 is over all live entries as lines `key TAB value LF`, sorted by key bytes.
#[derive(Debug, Args)]
pub(crate) struct Digest {
    #[command(flatten)]
    state: State,
}

/// Print changes from a position on, one JSON line a commit
#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// Where to begin: the position behind a commit, as `tail` and receipts name it
    #[arg(long, default_value = "0", value_name = "LSN")]
    from: Lsn,
    /// Go on as changes come
    #[arg(long, short)]
    follow: bool,
}

#[derive(Debug, Args)]
struct State {
    /// The keyspace
    #[arg(long, default_value = "default", value_name = "NAME")]
    keyspace: String,
    /// As of this position; without it, what readers see now
    #[arg(long, value_name = "LSN")]
    at: Option<Lsn>,
}

impl Get {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let State { keyspace, at } = &self.state;
        let (keyspace, key, at) = (keyspace.clone(), self.key.clone().into_bytes(), *at);
        match global
            .client()?
            .ask_one(Ask::Get { keyspace, key, at })
            .map_err(failed)?
        {
            Reply::Value(Some(value)) => {
                let json = json!({ "schema": 1, "key": self.key, "value": text(&value) });
                global
                    .output
                    .result(&json, || String::from_utf8_lossy(&value).into_owned())?;
                Ok(Exit::Ok)
            }
            Reply::Value(None) => Err(Failure::new(
                Exit::Failure,
                anyhow::anyhow!("{} has no value", self.key),
            )),
            other => Err(unexpected(&other)),
        }
    }
}

impl Scan {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let bytes = |text: &Option<String>| text.clone().map(String::into_bytes);
        let ask = Ask::Scan {
            keyspace: self.state.keyspace.clone(),
            prefix: self.prefix.clone().into_bytes(),
            start: bytes(&self.start),
            end: bytes(&self.end),
            reverse: self.reverse,
            limit: self.limit,
            at: self.state.at,
        };
        let mut stopped = None;
        let asked = global.client()?.ask(ask, |reply| {
            if let (Reply::Entries(entries), None) = (reply, &stopped) {
                stopped = print_entries(global, &entries).err();
            }
            Ok(())
        });
        asked.map_err(failed)?;
        stopped.map_or(Ok(Exit::Ok), Err)
    }
}

fn print_entries(global: &Global, entries: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Failure> {
    for (key, value) in entries {
        let json = json!({ "key": text(key), "value": text(value) });
        global.output.event(&json, || {
            format!(
                "{}\t{}",
                String::from_utf8_lossy(key),
                String::from_utf8_lossy(value)
            )
        })?;
    }
    Ok(())
}

impl Digest {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let State { keyspace, at } = &self.state;
        let ask = Ask::Digest {
            keyspace: keyspace.clone(),
            at: *at,
        };
        match global.client()?.ask_one(ask).map_err(failed)? {
            Reply::Digest {
                keys,
                sha256,
                at,
                commit,
            } => {
                let json = json!({
                    "schema": 1,
                    "keys": keys,
                    "sha256": sha256,
                    "at_lsn": at,
                    "commit": commit,
                });
                global
                    .output
                    .result(&json, || format!("{commit} {keys} {sha256}"))?;
                Ok(Exit::Ok)
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Tail {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let ask = Ask::Tail {
            from: self.from,
            follow: self.follow,
        };
        let mut client = global.client()?;
        client.send(ask)?;
        loop {
            let answer = client.answer()?;
            match answer.reply {
                Reply::Changes(changes) => {
                    for change in &changes {
                        let json = change_json(change);
                        global.output.event(&json, || json.to_string())?;
                    }
                }
                Reply::Failed(failure) => return Err(failed(failure.into())),
                other => return Err(unexpected(&other)),
            }
            if answer.last {
                return Ok(Exit::Ok);
            }
        }
    }
}

fn change_json(change: &WireChange) -> Value {
    let ops = change.ops.iter().map(|(keyspace, op)| match op {
        WireDone::Put {
            key,
            value,
            expires_ms: None,
        } => json!([keyspace, "put", text(key), text(value)]),
        WireDone::Put {
            key,
            value,
            expires_ms: Some(expires_ms),
        } => json!([keyspace, "put-expiring", text(key), text(value), expires_ms]),
        WireDone::Delete { key } => json!([keyspace, "delete", text(key)]),
        WireDone::DeleteRange { start, end } => {
            json!([
                keyspace,
                "delete-range",
                text(start),
                end.as_deref().map(text)
            ])
        }
        WireDone::DropKeyspace => json!([keyspace, "drop-keyspace"]),
        other => json!([keyspace, format!("{other:?}")]),
    });
    json!({
        "commit": change.receipt.commit,
        "lsn": change.receipt.lsn,
        "epoch": change.receipt.epoch,
        "log_ms": change.log_ms,
        "ops": ops.collect::<Vec<_>>(),
    })
}

/// Bytes as JSON has them: text where they are valid Unicode, else their hexadecimal digits.
pub(super) fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => {
            let hex = bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>();
            json!({ "hex": hex })
        }
    }
}
