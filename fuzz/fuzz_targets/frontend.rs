//! Any bytes as the body of a frontend message: a view never shows what is not in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::protocol::frontend::{Bind, Parse, Target, query};

fuzz_target!(|body: &[u8]| {
    if let Ok(text) = query(body) {
        assert_eq!(text.len() + 1, body.len());
    }
    if let Ok(parse) = Parse::read(body) {
        assert_eq!(
            parse.name.len() + parse.text.len() + parse.types.len() + 2,
            body.len()
        );
    }
    if let Ok(bind) = Bind::read(body) {
        assert_eq!(
            bind.portal.len() + bind.statement.len() + bind.rest.len() + 2,
            body.len()
        );
    }
    drop(Target::read(body));
});
