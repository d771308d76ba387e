//! Ships a log over QUIC: keys, pins, endpoints and the driver of the protocol.
