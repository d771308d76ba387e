//! `outlast serve`: running a node.

use std::net::SocketAddr;

use clap::Args;
use outlast_standby::Node;
use outlast_standby::config::NodeConfig;
use outlast_tools::child::end_with_parent;
use outlast_tools::exit::Exit;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::Global;
use crate::failure::Failure;
use crate::node::failed;

/// Where HTTP is answered when no address is said.
const HTTP_DEFAULT: &str = "127.0.0.1:7412";

/// Run the node as what it last was
///
/// SIGTERM and SIGINT close it cleanly. A primary that has a standby waits to hear from it before
/// it acknowledges anything.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Answer /v1/status, /healthz, /readyz and /metrics over HTTP, on loopback or at this address:
    /// read-only, to whoever reaches it
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = HTTP_DEFAULT)]
    http: Option<SocketAddr>,
}

impl Serve {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        end_with_parent()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // The handlers first: a signal that arrives while the log is replayed closes cleanly too.
        let (mut terminate, mut interrupt) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            )
        };
        let here = |config: &mut NodeConfig| config.http = self.http.or(config.http);
        let node = Node::start_with(&global.dir()?, here).map_err(failed)?;
        let status = node.status();
        let value = json!({ "schema": 1, "started": status });
        global.output.event(&value, || {
            let listen = status.listen.as_deref().unwrap_or("no peer");
            format!(
                "{} runs, {}, pid {}",
                status.node_name,
                listen,
                std::process::id()
            )
        })?;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        tracing::info!("closing");
        node.stop().map_err(failed)?;
        Ok(Exit::Ok)
    }
}
