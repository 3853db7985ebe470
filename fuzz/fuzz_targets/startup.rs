//! Any bytes as the first packet of a connection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::protocol::startup::{StartupPacket, startup_message};

fuzz_target!(|bytes: &[u8]| {
    let Ok(StartupPacket::Startup {
        version,
        parameters,
    }) = StartupPacket::read(bytes)
    else {
        return;
    };
    if version.major == 3 {
        // What was read is written back as it was sent, but for what may follow the terminator.
        let written = startup_message(version, parameters.iter().copied());
        assert_eq!(
            StartupPacket::read(&written[4..]),
            StartupPacket::read(bytes)
        );
    }
});
