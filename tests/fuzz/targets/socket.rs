//! What comes over the control socket, either way: any bytes, and any body under a checksum that
//! holds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_standby::control::protocol::{Answer, Request, announced_len, decode, encode, read};

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let model = encode(&()).expect("a message");
    let bytes = if how % 2 == 0 {
        data.to_vec()
    } else {
        outlast_fuzz::sealed_like(&model, data).expect("a model with a header")
    };
    let _ = announced_len(&bytes);
    if how & 2 == 0 {
        if let Ok(request) = decode::<Request>(&bytes) {
            let again = encode(&request).expect("what was decoded encodes");
            decode::<Request>(&again).expect("what was encoded decodes");
        }
        let _ = read::<Request>(&mut &*bytes);
    } else {
        let _ = decode::<Answer>(&bytes);
        let _ = read::<Answer>(&mut &*bytes);
    }
});
