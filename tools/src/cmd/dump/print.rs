//! The lines of a dump.

use std::collections::BTreeMap;

use outlast_engine::Op;
use outlast_engine::format::{
    FrameHeader, FrameKind, KeyspaceRecord, LsnRange, ProtectionRecord, Records,
};
use serde_json::{Value, json};

use super::walk::Item;
use crate::failure::Failure;
use crate::output::Output;

/// The number of the schema of all lines.
const SCHEMA: u32 = 1;

pub(super) struct Printer<'a> {
    output: &'a Output,
    records: bool,
    keyspaces: BTreeMap<u32, String>,
    epoch: String,
}

impl<'a> Printer<'a> {
    pub(super) const fn new(output: &'a Output, records: bool) -> Self {
        Self {
            output,
            records,
            keyspaces: BTreeMap::new(),
            epoch: String::new(),
        }
    }

    /// A range that was fetched back from the peer.
    pub(super) fn received(&self, range: &LsnRange) -> Result<(), Failure> {
        let json = json!({
            "schema": SCHEMA,
            "type": "received",
            "from_lsn": range.start,
            "to_lsn": range.end,
        });
        self.output.event(&json, || {
            format!("received {range}  fetched back from the peer")
        })
    }

    pub(super) fn item(&mut self, item: &Item<'_>) -> Result<(), Failure> {
        match item {
            Item::Unused { file, torn } => {
                let file = file.display().to_string();
                let state = if *torn { "torn" } else { "prepared" };
                let json = json!({
                    "schema": SCHEMA, "type": "unused", "file": file, "state": state,
                });
                self.output
                    .event(&json, || format!("{file}  {state}, not used"))
            }
            Item::Segment {
                file,
                header,
                footer,
            } => {
                let file = file.display().to_string();
                let end = footer.map(|footer| footer.end.lsn);
                let frames = footer.map(|footer| footer.frames);
                let json = json!({
                    "schema": SCHEMA,
                    "type": "segment",
                    "file": file,
                    "ordinal": header.ordinal,
                    "cluster": header.cluster,
                    "segment_bytes": header.segment_size,
                    "features_incompatible": header.features_incompatible,
                    "features_read_only": header.features_read_only,
                    "features_compatible": header.features_compatible,
                    "base_lsn": header.base(),
                    "next_commit": header.start.next_commit,
                    "sealed": end.is_some(),
                    "end_lsn": end,
                    "frames": frames,
                });
                let state = match (end, frames) {
                    (Some(end), Some(frames)) => format!("sealed  end {end}  frames {frames}"),
                    _ => "active".to_owned(),
                };
                let base = header.base();
                self.output
                    .event(&json, || format!("{file}  base {base}  {state}"))
            }
            Item::Frame {
                offset,
                header,
                epoch,
                bytes,
            } => {
                if let Some(epoch) = epoch {
                    self.epoch = format!("{}.{}/{}", epoch.term, epoch.start, epoch.id.short());
                }
                self.frame(*offset, header, bytes, json!(epoch))?;
                if self.records && header.kind == FrameKind::Batches {
                    self.records(header, bytes)?;
                }
                Ok(())
            }
            Item::End {
                at,
                offset,
                torn_bytes,
            } => {
                let json = json!({
                    "schema": SCHEMA,
                    "type": "end",
                    "lsn": at,
                    "file_offset": offset,
                    "torn_bytes": torn_bytes,
                });
                self.output.event(&json, || match torn_bytes {
                    0 => format!("  end {at}"),
                    bytes => format!(
                        "  end {at}  {bytes} bytes behind it are no frame: a torn tail, \
                         or one that is being written"
                    ),
                })
            }
        }
    }

    fn frame(
        &mut self,
        offset: u64,
        header: &FrameHeader,
        bytes: &[u8],
        epoch: Value,
    ) -> Result<(), Failure> {
        let payload = header.payload(bytes);
        let kind = format!("{:?}", header.kind).to_lowercase();
        let (what, record) = match header.kind {
            FrameKind::Batches => (String::new(), Value::Null),
            FrameKind::Epoch => (format!("  begins {}", self.epoch), epoch),
            FrameKind::Keyspace => match KeyspaceRecord::decode(payload) {
                Ok(record) => {
                    self.keyspaces.insert(record.id, record.name.clone());
                    (format!("  {} {}", record.id, record.name), json!(record))
                }
                Err(fault) => (format!("  {fault}"), Value::Null),
            },
            FrameKind::Protection => match ProtectionRecord::decode(payload) {
                Ok(record) => (format!("  {}", record.note), json!(record)),
                Err(fault) => (format!("  {fault}"), Value::Null),
            },
            _ => (String::new(), Value::Null),
        };
        let commits = match header.batches {
            0 => None,
            batches => Some((
                header.first_commit,
                header.first_commit + u64::from(batches) - 1,
            )),
        };
        let json = json!({
            "schema": SCHEMA,
            "type": "frame",
            "lsn": header.lsn,
            "end_lsn": header.end(),
            "file_offset": offset,
            "kind": kind,
            "first_in_segment": header.first_in_segment,
            "term": header.term,
            "start": header.start,
            "batches": header.batches,
            "first_commit": commits.map(|(first, _)| first),
            "last_commit": commits.map(|(_, last)| last),
            "payload_bytes": header.payload_len,
            "watermark_lsn": header.watermark,
            "visible_lsn": header.visible,
            "wall_ms": header.wall_ms,
            "log_ms": header.log_ms,
            "check": format!("{:08x}", header.check),
            "chain": "ok",
            "record": record,
        });
        let commits = commits.map_or_else(
            || "-".to_owned(),
            |(first, last)| format!("{first}..={last}"),
        );
        self.output.event(&json, || {
            format!(
                "  {:>12}  {kind:<10}  {}.{}  batches {}  commits {commits}  payload {}  \
                 watermark {}  visible {}  chain ok{what}",
                header.lsn.to_string(),
                header.term,
                header.start,
                header.batches,
                header.payload_len,
                header.watermark,
                header.visible,
            )
        })
    }

    fn records(&self, header: &FrameHeader, bytes: &[u8]) -> Result<(), Failure> {
        let payload = header.payload(bytes);
        for placed in Records::new(payload, header.payload_lsn(), header.batches) {
            let placed = match placed {
                Ok(placed) => placed,
                Err(fault) => {
                    let what = anyhow::anyhow!("the frame at {}: {fault}", header.lsn);
                    return Err(Failure::new(outlast_tools::exit::Exit::Corruption, what));
                }
            };
            let record = placed.record;
            let keyspace = self.keyspaces.get(&record.keyspace);
            let commit = header.first_commit + u64::from(placed.batch);
            let end = (record.op == Op::DeleteRange).then(|| match record.value {
                [] => Value::Null,
                end => crate::cmd::read::text(end),
            });
            let op = match record.op {
                Op::Put if record.expires_ms.is_some() => "put-expiring",
                Op::Put => "put",
                Op::Delete => "delete",
                Op::DeleteRange => "delete-range",
                Op::DropKeyspace => "drop-keyspace",
                _ => "unknown",
            };
            let json = json!({
                "schema": SCHEMA,
                "type": "record",
                "lsn": placed.lsn,
                "commit": commit,
                "keyspace_id": record.keyspace,
                "keyspace": keyspace,
                "op": op,
                "key": crate::cmd::read::text(record.key),
                "end": end,
                "expires_ms": record.expires_ms,
                "value_bytes": record.value.len(),
            });
            let name = keyspace.map_or_else(|| format!("#{}", record.keyspace), Clone::clone);
            self.output.event(&json, || {
                format!(
                    "    {:>12}  commit {commit}  {name}  {op}  {}  {}",
                    placed.lsn.to_string(),
                    record.key.escape_ascii(),
                    match record.op {
                        Op::DeleteRange => format!("to {}", record.value.escape_ascii()),
                        _ => format!("{} bytes", record.value.len()),
                    },
                )
            })?;
        }
        Ok(())
    }
}
