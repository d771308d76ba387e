//! What links cost on this machine: `cargo run --release -p outlast-shipper --example floor
//! [FILE]`, where FILE holds settings of a link, as TOML.

use std::error::Error;
use std::time::Duration;

use outlast_shipper::{LinkConfig, floor};

const PINGS: usize = 50_000;
const BULK_BYTES: u64 = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let config: LinkConfig = match std::env::args().nth(1) {
        Some(file) => toml::from_str(&std::fs::read_to_string(file)?)?,
        None => LinkConfig::default(),
    };
    print_times("ping, 64 B, idle", floor::ping(&config, 64, PINGS)?);
    let bulk = floor::bulk(&config, BULK_BYTES)?;
    println!(
        "bulk              {:.0} MB/s, MTU {}, {} packets of {} lost, {:.1} datagrams a call",
        bulk.megabytes_per_second(),
        bulk.stats.mtu_bytes,
        bulk.stats.lost_packets,
        bulk.stats.sent_packets,
        bulk.stats.sent_datagrams as f64 / bulk.stats.send_calls.max(1) as f64,
    );
    print_times(
        "ping, 64 B, bulk",
        floor::ping_under_bulk(&config, 64, PINGS / 25)?,
    );
    Ok(())
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |per_mille: usize| {
        let time = times.get((times.len() * per_mille / 1000).min(times.len().saturating_sub(1)));
        time.copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    println!(
        "{what}  p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us",
        at(500),
        at(990),
        at(999),
        at(1000)
    );
}
