//! Messages of the protocol: any bytes, and any body under a checksum that holds. What decodes is
//! encoded again to the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_engine::format::{CommonPoint, EpochId, Lsn};
use outlast_proto::{
    Binding, ByeReason, HANDSHAKE_LEN_MAX, HEADER_LEN, Message, Nonce, RUN_HEADER_LEN, SessionId,
    announced_len, decode, decode_repair, decode_run, encode, encode_repair,
};

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    if let Some(Ok(len)) = data.first_chunk().map(announced_len) {
        // What would be allocated before anything is known of the peer.
        assert!(
            len <= HEADER_LEN + HANDSHAKE_LEN_MAX as usize,
            "{len} bytes announced"
        );
    }
    if let Some(run) = data.first_chunk::<RUN_HEADER_LEN>() {
        let _ = decode_run(run);
    }
    let bytes = if how % 2 == 0 {
        data.to_vec()
    } else {
        match outlast_fuzz::sealed_like(&model(how / 2), data) {
            Some(bytes) => bytes,
            None => return,
        }
    };
    if let Ok(message) = decode(&bytes) {
        let again = encode(&message).expect("what was decoded encodes");
        assert_eq!(decode(&again).expect("what was encoded decodes"), message);
    }
    if let Ok(message) = decode_repair(&bytes) {
        let again = encode_repair(&message).expect("what was decoded encodes");
        let again = decode_repair(&again).expect("what was encoded decodes");
        assert_eq!(again, message);
    }
});

/// A message of a kind, for its mark and version.
fn model(kind: u8) -> Vec<u8> {
    let binding = Binding {
        session: SessionId {
            dialler: Nonce([1; 8]),
            listener: Nonce([2; 8]),
        },
        epoch: EpochId([3; 16]),
    };
    let fork = CommonPoint {
        lsn: Lsn(0),
        epoch: EpochId([3; 16]),
    };
    let message = match kind % 2 {
        0 => Message::Bye {
            binding,
            reason: ByeReason::Stopping,
        },
        _ => Message::Diverged { binding, fork },
    };
    let mut bytes = encode(&message).expect("a message");
    // Any kind at all.
    bytes[6] = kind / 2;
    bytes
}
