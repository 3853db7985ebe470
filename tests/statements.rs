//! The classifier, statement by statement: every line of `tests/statements/*.txt` is a statement with the place it
//! may go to and the reason that is told for it.
#![expect(clippy::unwrap_used, reason = "a test panics")]

#[path = "statements/table.rs"]
mod table;

use pgweir::sql::{self, Class, Effects, Env, Facts, classify};
use table::cases;

fn target(facts: &Facts) -> &'static str {
    match facts.class {
        Class::Empty => "any",
        Class::Read => "replica",
        Class::Write | Class::Unknown => "primary",
        Class::Begin => "begin",
        Class::Transaction => "control",
        Class::Set if facts.effects.contains(Effects::SETS_ISOLATION) => "isolation",
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

/// What is remembered of a shape is said of every text that has it.
#[test]
fn a_shape_is_what_its_texts_are() {
    let mut shapes = 0;
    for case in cases() {
        let mut shape = Vec::new();
        if !sql::shape(case.text.as_bytes(), &mut shape) {
            continue;
        }
        shapes += 1;
        let other = str::from_utf8(&shape).unwrap().replace(" 0", " 98765");
        let [text, shape, other] = [case.text.as_bytes(), &shape, other.as_bytes()].map(|text| {
            let facts = classify(text, &env());
            (facts.class, facts.reason, facts.effects, facts.statements)
        });
        assert_eq!(shape, text, "{}", case.text);
        assert_eq!(other, text, "{}", case.text);
    }
    assert!(shapes > 150, "only {shapes} statements have a shape");
}

#[test]
fn every_statement_goes_where_the_table_says() {
    let cases = cases();
    let mut wrong = Vec::new();
    for case in &cases {
        let facts = classify(case.text.as_bytes(), &env());
        let found = (target(&facts), facts.reason.code());
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
