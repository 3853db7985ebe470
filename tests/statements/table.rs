//! The tables of statements.
//!
//! A line is `target  reason  statement`; indented lines go on with the statement; all other lines are prose.
//! Targets stand for classes: `replica` is a proved read, `primary` a write or something unknown; an `isolation` is a
//! setting that only the primary may be told.

use std::{fs, path::Path};

/// A line.
pub(crate) struct Case {
    /// File and line.
    pub(crate) place: String,
    /// Where it may go.
    pub(crate) target: String,
    /// Why.
    pub(crate) reason: String,
    /// The statement.
    pub(crate) text: String,
}

const TARGETS: &[&str] = &[
    "replica",
    "primary",
    "any",
    "begin",
    "control",
    "setting",
    "isolation",
    "session",
    "execute",
];

/// All of them, in order.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut files: Vec<_> = fs::read_dir(Path::new("tests/statements"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "txt"))
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
    assert!(cases.len() >= 300, "the tables were not read");
    cases
}
