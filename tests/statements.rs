//! The classifier, statement by statement: every line of `tests/statements/*.txt` is a statement with the place it
//! may go to and the reason that is told for it.
//!
//! A line of the tables is `target  reason  statement`; indented lines go on with the statement; all other lines are
//! prose. Targets stand for classes: `replica` is a proved read, `primary` a write or something unknown.
#![expect(clippy::unwrap_used, reason = "a test panics")]

use std::{fs, path::Path};

use pgweir::sql::{Class, Env, classify};

struct Case {
    place: String,
    target: String,
    reason: String,
    text: String,
}

const TARGETS: &[&str] = &[
    "replica", "primary", "any", "begin", "control", "setting", "session", "execute",
];

fn target(class: Class) -> &'static str {
    match class {
        Class::Empty => "any",
        Class::Read => "replica",
        Class::Write | Class::Unknown => "primary",
        Class::Begin => "begin",
        Class::Transaction => "control",
        Class::Set => "setting",
        Class::Session => "session",
        Class::Execute => "execute",
    }
}

/// A session of the newest server, so that the tables may use what is new.
fn env() -> Env<'static> {
    Env {
        server_version: 18,
        ..Env::default()
    }
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut files: Vec<_> = fs::read_dir(Path::new("tests/statements"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let mut open = false;
        for (number, line) in text.lines().enumerate() {
            if open && line.starts_with(' ') {
                let case = cases.last_mut().unwrap();
                case.text.push('\n');
                case.text.push_str(line.trim_start());
                continue;
            }
            let mut words = line.splitn(2, char::is_whitespace);
            let first = words.next().unwrap();
            open = TARGETS.contains(&first);
            if open {
                let rest = words.next().unwrap().trim_start();
                let (reason, text) = rest.split_once(char::is_whitespace).unwrap();
                cases.push(Case {
                    place: format!("{}:{}", file.display(), number + 1),
                    target: first.to_owned(),
                    reason: reason.to_owned(),
                    text: text.trim_start().to_owned(),
                });
            }
        }
    }
    cases
}

#[test]
fn every_statement_goes_where_the_table_says() {
    let cases = cases();
    assert!(cases.len() >= 300, "the tables were not read");
    let mut wrong = Vec::new();
    for case in &cases {
        let facts = classify(case.text.as_bytes(), &env());
        let found = (target(facts.class), facts.reason.code());
        if found != (&*case.target, &*case.reason) {
            wrong.push(format!("{}: {}\n  is {found:?}", case.place, case.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Only tokens count: blanks and comments between them, and the case of letters outside quotes, change nothing.
#[test]
fn layout_does_not_matter() {
    for case in cases() {
        // Where a line ends is part of the meaning of a line comment and of a string that goes on.
        let cut_off = case.reason == "unterminated";
        if case.text.contains('\n') || case.text.contains("--") || cut_off {
            continue;
        }
        let facts = classify(case.text.as_bytes(), &env());
        for text in [
            format!("\t\n{} \r\n", case.text),
            format!("/* ; select ' */{}/* \" */", case.text),
            format!("-- '\n{}\n-- $$", case.text),
            format!("{};", case.text),
        ] {
            let again = classify(text.as_bytes(), &env());
            assert_eq!(
                (again.class, again.reason),
                (facts.class, facts.reason),
                "{text}"
            );
            assert_eq!(again.effects, facts.effects, "{text}");
        }
    }
}
