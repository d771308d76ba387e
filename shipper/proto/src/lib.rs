#![doc = include_str!("../PROTOCOL.md")]

mod close;
mod codec;
mod compare;
mod config;
mod dropped;
mod facts;
mod gate;
mod history_wire;
mod inflow;
mod meeting;
mod message;
mod outflow;
mod points;
mod receiver;
mod repair;
mod sender;
mod session;
mod time;
mod window;

pub use close::CloseReason;
pub use codec::{
    CodecFault, HANDSHAKE_LEN_MAX, HEADER_LEN, MESSAGE_LEN_MAX, RUN_HEADER_LEN, announced_len,
    decode, decode_repair, decode_run, encode, encode_repair, encode_run,
};
pub use compare::{Relation, relate};
pub use config::{
    CUT_TIMEOUT_DEFAULT, Config, HANDSHAKE_TIMEOUT_DEFAULT, HEARTBEAT_INTERVAL_DEFAULT,
    RUN_BYTES_DEFAULT, SILENCE_MAX_DEFAULT, VERSION, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MIN,
};
pub use dropped::Dropped;
pub use facts::{Identity, LogView, PrimaryFacts, PrimaryState, PrimaryView, StandbyFacts};
pub use gate::{
    Action, Admission, BOUND_TIME_MAX, BOUND_TIME_MIN, Bound, CLOCK_RATE_ERROR_PPM, Decision,
    Exposure, GATE_WINDOW_BYTES_DEFAULT, Gate, GateConfig, GateStart, GateStatus, Guard, Held,
    LEASE_DEFAULT, Lease, PEAK_SECONDS, PeakExposure, Peaks, Policy, Protection, ProtectionFault,
    Standing, Terms, fenced_after,
};
pub use meeting::{Local, Meeting, Role, meet};
pub use message::{
    Ack, ByeReason, ConflictKind, Features, Heartbeat, Hello, Message, Mode, Refuse, RefuseReason,
    Versions, Welcome,
};
pub use points::{AckMark, LogEnd, Position, ProtectionPoint, Term};
pub use receiver::{
    Receiver, ReceiverEvent, ReceiverInput, ReceiverOutput, ReceiverPhase, ReceiverStatus, Told,
};
pub use repair::{
    Asker, AskerInput, AskerOutput, Giver, GiverInput, GiverOutput, NotGiven, RepairAsk, RepairEnd,
    RepairMessage, RepairRefusal,
};
pub use sender::{Sender, SenderEvent, SenderInput, SenderOutput, SenderPhase, SenderStatus};
pub use session::{Binding, Nonce, RunHeader, SessionId};
pub use time::{MonoTime, Stamp};
