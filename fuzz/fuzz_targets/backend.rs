//! Any bytes as the body of a backend message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::protocol::backend::{
    ErrorFields, backend_key_data, command_complete, data_row, parameter_status, ready_for_query,
};

fuzz_target!(|body: &[u8]| {
    drop(ready_for_query(body));
    drop(backend_key_data(body));
    drop(command_complete(body));
    drop(parameter_status(body));
    if let Ok(columns) = data_row(body) {
        let values: usize = columns.iter().flatten().map(|value| value.len()).sum();
        assert_eq!(2 + 4 * columns.len() + values, body.len());
    }
    let fields = ErrorFields::read(body);
    assert!(fields.message.len() <= body.len());
});
