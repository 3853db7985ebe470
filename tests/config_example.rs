//! `pooler.toml.example` is the code's own account of its settings. `BLESS=1` writes it anew.

use std::{collections::BTreeSet, fs, path::Path};

use pgweir::config::{Config, Section};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pooler.toml.example");

fn parse(text: &str) -> Config {
    let environment = |_: &str| Some("from-the-environment".to_owned());
    Config::parse(text, Path::new("/nowhere"), &environment).expect("the example is valid")
}

/// Every `#key = value` and `#[section]` without its `#`.
fn uncommented() -> String {
    let bare = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '[') => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    Config::example()
        .lines()
        .map(bare)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_file_is_what_the_code_says() {
    let example = Config::example();
    #[expect(
        clippy::disallowed_methods,
        reason = "the habitual switch of golden files"
    )]
    if std::env::var("BLESS").is_ok() {
        fs::write(FILE, &example).unwrap();
    }
    let file = fs::read_to_string(FILE).unwrap();
    assert!(
        file == example,
        "pooler.toml.example is out of date: BLESS=1 cargo test config"
    );
}

#[test]
fn every_key_is_there_once_and_nothing_else() {
    let mut written = Vec::new();
    for line in Config::example()
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
    {
        if let Some((key, _)) = line.split_once(" = ") {
            let key = key.trim();
            if key
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
            {
                written.push(key.to_owned());
            }
        }
    }
    for key in Config::keys() {
        assert!(
            written.iter().any(|name| name == key.name),
            "{} is missing",
            key.name
        );
    }
    let known: BTreeSet<_> = Config::keys().map(|key| key.name).collect();
    let unknown: Vec<_> = written
        .iter()
        .filter(|name| !known.contains(name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "no such keys: {unknown:?}");
}

#[test]
fn as_it_is_it_has_the_defaults() {
    let config = parse(&Config::example());
    assert_eq!(config.process, Config::default().process);
    assert_eq!(config.defaults, Config::default().defaults);
}

#[test]
fn uncommented_it_has_the_defaults_too() {
    let text = uncommented();
    let config = parse(&text);
    assert_eq!(config.process, Config::default().process);
    assert_eq!(config.defaults, Config::default().defaults);
    assert_eq!(config.databases().count(), 1);
    assert!(config.fallback().is_some() && config.user("alice").is_some());
    let settings = text
        .lines()
        .filter(|line| line.contains(" = ") && !line.starts_with('#'));
    let general =
        Config::keys().filter(|key| matches!(key.section, Section::Process | Section::Pool));
    assert!(
        settings.count() > general.count(),
        "the comments were not taken off"
    );
}
