//! Any bytes as a query string: every span lies inside of the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::sql::{Env, classify, statements};

fuzz_target!(|text: &[u8]| {
    let env = Env::default();
    let facts = classify(text, &env);
    assert!(facts.evidence.range().end <= text.len());
    for (span, facts) in statements(text, &env) {
        assert!(span.range().end <= text.len());
        assert!(facts.evidence.range().end <= text.len());
    }
});
