//! Any text as a configuration file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pgweir::config::Config;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse(text, Path::new(""), &|_| None) {
        assert!(!error.to_string().is_empty());
    }
});
