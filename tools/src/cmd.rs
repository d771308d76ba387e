//! The commands, one module each.

mod bench;
mod certificate;
mod check;
mod checkpoint;
mod clock;
mod demo;
mod drill_kill;
mod dump;
mod init;
mod load;
mod pin;
mod promote;
mod protect;
mod read;
mod rebuild_index;
mod relay;
mod repair;
mod resolve;
mod resume;
mod serve;
mod status;

use clap::Subcommand;
use outlast_tools::exit::Exit;

use crate::Global;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Init),
    #[command(subcommand)]
    Pin(pin::Pin),
    Serve(serve::Serve),
    Load(load::Load),
    Status(status::Status),
    Promote(promote::Promote),
    #[command(subcommand)]
    Certificate(certificate::CertificateCommand),
    #[command(subcommand)]
    Policy(protect::Policy),
    #[command(subcommand)]
    Protect(protect::Protect),
    ResumeAlone(resume::ResumeAlone),
    Resolve(resolve::Resolve),
    ConfirmClock(clock::ConfirmClock),
    Get(read::Get),
    Scan(read::Scan),
    Digest(read::Digest),
    Tail(read::Tail),
    Demo(demo::Demo),
    DrillKill(drill_kill::DrillKill),
    Dump(dump::Dump),
    Check(check::Check),
    Repair(repair::Repair),
    Checkpoint(checkpoint::Checkpoint),
    Restore(checkpoint::Restore),
    RebuildIndex(rebuild_index::RebuildIndex),
    Relay(Box<relay::Relay>),
    #[command(subcommand)]
    Bench(bench::Bench),
}

impl Command {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Init(init) => init.run(global),
            Self::Pin(pin) => pin.run(global),
            Self::Serve(serve) => serve.run(global),
            Self::Load(load) => load.run(global),
            Self::Status(status) => status.run(global),
            Self::Promote(promote) => promote.run(global),
            Self::Certificate(certificate) => certificate.run(global),
            Self::Policy(policy) => policy.run(global),
            Self::Protect(protect) => protect.run(global),
            Self::ResumeAlone(resume) => resume.run(global),
            Self::Resolve(resolve) => resolve.run(global),
            Self::ConfirmClock(confirm) => confirm.run(global),
            Self::Get(get) => get.run(global),
            Self::Scan(scan) => scan.run(global),
            Self::Digest(digest) => digest.run(global),
            Self::Tail(tail) => tail.run(global),
            Self::Demo(demo) => demo.run(global),
            Self::DrillKill(drill) => drill.run(global),
            Self::Dump(dump) => dump.run(global),
            Self::Check(check) => check.run(global),
            Self::Repair(repair) => repair.run(global),
            Self::Checkpoint(checkpoint) => checkpoint.run(global),
            Self::Restore(restore) => restore.run(global),
            Self::RebuildIndex(rebuild) => rebuild.run(global),
            Self::Relay(relay) => relay.run(global),
            Self::Bench(bench) => bench.run(global),
        }
    }
}
