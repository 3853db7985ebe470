//! Any bytes, in any pieces, as a stream of messages: the pieces make no difference, and every frame
//! moves the reader on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::protocol::frame;

fuzz_target!(|input: (&[u8], u8)| {
    let (bytes, cut) = input;
    let whole = sizes(bytes);
    let cut = usize::from(cut).min(bytes.len());
    let mut pieces = sizes(&bytes[..cut]);
    let done: usize = pieces.iter().sum();
    pieces.extend(sizes(&bytes[done..]));
    assert_eq!(pieces, whole);
    let mut rest = bytes;
    while let Ok(Some(frame)) = frame::backend(rest) {
        assert!(frame.size >= frame::HEADER);
        if !frame.is_whole() {
            break;
        }
        rest = &rest[frame.size..];
    }
});

fn sizes(mut bytes: &[u8]) -> Vec<usize> {
    let mut sizes = Vec::new();
    while let Ok(Some(frame)) = frame::frontend(bytes, u32::MAX) {
        if !frame.is_whole() {
            break;
        }
        sizes.push(frame.size);
        bytes = &bytes[frame.size..];
    }
    sizes
}
