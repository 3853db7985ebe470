//! Texts that nobody sane would write: whatever the bytes, the answer comes without a panic, on a small stack, after work
//! that grows with the length of the text and no faster.

use proptest::{collection::vec, prelude::*, sample::select};

use super::statement::Scanner;
use super::*;

/// Makes a text of so many repetitions.
type Make = fn(usize) -> String;

/// Long texts of every kind that has brought some parser down, by their number of repetitions.
const HOSTILE: &[(&str, Make)] = &[
    ("open parentheses", |n| format!("select {}", "(".repeat(n))),
    ("nested parentheses", |n| {
        format!("select {}1{}", "(".repeat(n), ")".repeat(n))
    }),
    ("nested queries", |n| {
        format!("select {}1{}", "(select ".repeat(n), ")".repeat(n))
    }),
    ("nested calls", |n| {
        format!("select {}1{}", "f(".repeat(n), ")".repeat(n))
    }),
    ("sums", |n| format!("select 1{}", "+1".repeat(n))),
    ("casts", |n| format!("select 1{}", "::int".repeat(n))),
    ("subscripts", |n| format!("select a{}", "[1]".repeat(n))),
    ("conditions", |n| {
        format!("select 1 where true{}", " and a=1".repeat(n))
    }),
    ("unions", |n| {
        format!("select 1{}", " union select 1".repeat(n))
    }),
    ("joins", |n| {
        format!("select * from a{}", " join b on true".repeat(n))
    }),
    ("lists", |n| format!("select 1 in (1{})", ",1".repeat(n))),
    ("case", |n| {
        format!(
            "select {}1{}",
            "case when ".repeat(n),
            " then 1 end".repeat(n)
        )
    }),
    ("statements", |n| "select 1;".repeat(n)),
    ("empty statements", |n| ";".repeat(n)),
    ("with", |n| "with a as (".repeat(n)),
    ("names", |n| format!("select {}b", "a.".repeat(n))),
    ("system names", |n| format!("select {}b", "pg_a.".repeat(n))),
    ("a long name", |n| format!("select {}", "pg_".repeat(n))),
    ("a long quoted name", |n| {
        format!("select \"{}\"()", "\"\"".repeat(n))
    }),
    ("comments opened", |n| "/*".repeat(n)),
    ("comments in comments", |n| {
        format!("{}{}", "/*".repeat(n), "*/".repeat(n))
    }),
    ("stars and slashes", |n| format!("/*{}", "*/*".repeat(n))),
    ("line comments", |n| "--\n".repeat(n)),
    ("unterminated string", |n| {
        format!("select '{}", "a".repeat(n))
    }),
    ("quotes", |n| "'".repeat(n)),
    ("odd quotes", |n| format!("select {}", "''".repeat(n))),
    ("backslashes", |n| format!("select E'{}", "\\".repeat(n))),
    ("strings that go on", |n| {
        format!("select E'a'{}", "\n'b'".repeat(n))
    }),
    ("strings that seem to go on", |n| "E'a'\n--\n".repeat(n)),
    ("dollar quotes", |n| "$a$".repeat(n)),
    ("dollar quotes that never end", |n| {
        format!("$a${}", "$a".repeat(n))
    }),
    ("a long tag", |n| format!("${}", "a".repeat(n))),
    ("long tags", |n| format!("${0}${0}", "a".repeat(n))),
    ("dollars", |n| "$".repeat(n)),
    ("parameters", |n| format!("select {}", "$1".repeat(n))),
    ("operators", |n| format!("select {}", "@-".repeat(n))),
    ("operators by name", |n| {
        format!("select {}", "operator(".repeat(n))
    }),
    ("operators by long names", |n| {
        format!(
            "select {}",
            format!("operator({}", "a.".repeat(50)).repeat(n / 50 + 1)
        )
    }),
    ("settings asked for", |n| {
        format!("select {}", "current_setting(".repeat(n))
    }),
    ("settings set", |n| {
        format!("select {}", "set_config('a','b',".repeat(n))
    }),
    ("settings", |n| {
        "set local session characteristics as ".repeat(n)
    }),
    ("modes", |n| format!("begin {}", "read only,".repeat(n))),
    ("explain", |n| "explain ".repeat(n)),
    ("explained parentheses", |n| {
        format!("explain {}", "(".repeat(n))
    }),
    ("options", |n| {
        format!("explain ({}", "analyze off,".repeat(n))
    }),
    ("prepared types", |n| {
        format!("prepare p ({}", "(".repeat(n))
    }),
    ("executed", |n| {
        format!("create table t {}", "as execute p ".repeat(n))
    }),
    ("copy", |n| format!("copy {}", "from to ".repeat(n))),
    ("atomic", |n| {
        format!("create function f() {}", "begin atomic case ".repeat(n))
    }),
    ("zeros", |n| "\0".repeat(n)),
    ("high bytes", |n| "é".repeat(n)),
];

fn work(text: &[u8], env: &Env<'_>) -> usize {
    let mut scanner = Scanner::new(text, env);
    while scanner.statement().is_some() {}
    scanner.lexer.work.get()
}

#[test]
fn work_grows_with_the_length_and_no_faster() {
    let env = Env {
        max_len: usize::MAX,
        ..Env::default()
    };
    for (name, make) in HOSTILE {
        for repetitions in [1_000, 50_000] {
            let text = make(repetitions);
            let work = work(text.as_bytes(), &env);
            // Each byte once, a token as such, and a bounded look ahead.
            assert!(
                work <= 8 * text.len() + 64,
                "{name}: {work} for {} bytes",
                text.len()
            );
        }
    }
}

#[test]
fn a_megabyte_of_anything_fits_on_a_small_stack() {
    let hostile = || {
        for (name, make) in HOSTILE {
            let text = make(1_000_000 / make(1).len().max(4));
            let facts = classify(
                text.as_bytes(),
                &Env {
                    max_len: usize::MAX,
                    ..Env::default()
                },
            );
            assert!(facts.statements <= 1_000_000, "{name}");
        }
    };
    let thread = std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(hostile)
        .unwrap();
    thread.join().unwrap();
}

#[test]
fn many_statements_are_counted() {
    let text = "select 1;".repeat(100_000);
    let facts = classify(text.as_bytes(), &Env::default());
    assert_eq!((facts.class, facts.statements), (Class::Read, 100_000));
}

/// Pieces of SQL that mean something next to each other.
const WORDS: &[&str] = &[
    "select",
    "insert",
    "update",
    "delete",
    "merge",
    "into",
    "for",
    "share",
    "no",
    "key",
    "with",
    "recursive",
    "as",
    "materialized",
    "values",
    "table",
    "from",
    "join",
    "left",
    "on",
    "distinct",
    "group",
    "by",
    "rollup",
    "order",
    "over",
    "filter",
    "limit",
    "fetch",
    "first",
    "copy",
    "to",
    "stdin",
    "stdout",
    "program",
    "explain",
    "analyze",
    "prepare",
    "execute",
    "deallocate",
    "declare",
    "cursor",
    "hold",
    "create",
    "temp",
    "function",
    "begin",
    "atomic",
    "end",
    "case",
    "set",
    "local",
    "session",
    "time",
    "zone",
    "reset",
    "show",
    "transaction",
    "commit",
    "rollback",
    "savepoint",
    "release",
    "all",
    "discard",
    "listen",
    "do",
    "call",
    "operator",
    "treat",
    "t",
    "lower",
    "nextval",
    "set_config",
    "current_setting",
    "pg_catalog",
    "pg_temp",
    "pg_locks",
    "f",
    "\"q\"",
    "U&\"u\"",
    "1",
    "1.5e3",
    "$1",
    "+",
    "=",
    "*",
    "::",
    ".",
    ",",
    ";",
    "(",
    ")",
    "[",
    "]",
    ":",
    "$$x$$",
];

fn soup() -> impl Strategy<Value = Vec<&'static str>> {
    vec(select(WORDS), 0..40)
}

/// One of them between any two pieces.
const BLANKS: &[&str] = &[" ", "\n\t", "/**/", " -- ;'\n", "/* /* ' */ ; */", "\r--\r"];

proptest! {
    #[test]
    fn any_bytes_have_facts(bytes in vec(any::<u8>(), 0..200), standard in any::<bool>(), safe in any::<bool>()) {
        let env = Env { standard_conforming_strings: standard, ascii_safe_encoding: safe, ..Env::default() };
        check(&bytes, &env)?;
    }

    #[test]
    fn any_soup_of_words_has_facts(words in soup(), cut in 0_usize..300) {
        let text = words.join(" ");
        check(text.as_bytes(), &Env::default())?;
        check(&text.as_bytes()[..cut.min(text.len())], &Env::default())?;
    }

    #[test]
    fn blanks_and_comments_change_nothing(words in soup(), blanks in vec(select(BLANKS), 40)) {
        let plain = classify(words.join(" ").as_bytes(), &Env::default());
        let text: String = words.iter().zip(&blanks).flat_map(|(w, b)| [*w, *b]).collect();
        let spaced = classify(text.as_bytes(), &Env::default());
        prop_assert_eq!((plain.class, plain.reason, plain.effects), (spaced.class, spaced.reason, spaced.effects), "{}", text);
        prop_assert_eq!(plain.statements, spaced.statements);
    }

    /// A statement's effects do not depend on its neighbours, and a read stays none next to a write.
    #[test]
    fn a_string_has_the_effects_of_its_statements(one in soup(), two in soup()) {
        let (one, two) = (one.join(" "), two.join(" "));
        let facts = |text: &str| classify(text.as_bytes(), &Env::default());
        let both = facts(&format!("{one} ; {two}"));
        if facts(&one).class != Class::Unknown && both.class != Class::Unknown {
            prop_assert!(both.effects.contains(facts(&one).effects));
            let reads = [facts(&one), facts(&two)].iter().all(|f| matches!(f.class, Class::Read | Class::Empty));
            prop_assert!(reads || both.class != Class::Read);
        }
    }

    #[test]
    fn folding_never_fails(bytes in vec(any::<u8>(), 0..100)) {
        prop_assert!(fold_name(&bytes).len() <= 63);
        prop_assert!(fold_literal(&bytes).len() <= bytes.len());
        prop_assert!(plain_literal(&bytes).is_none_or(|l| l.len() <= bytes.len()));
        drop(hint::hints(&bytes));
    }
}

/// Spans lie inside the text, statements one behind the other, and the whole agrees with its parts.
fn check(text: &[u8], env: &Env<'_>) -> Result<(), TestCaseError> {
    let whole = classify(text, env);
    let mut end = 0;
    let mut count = 0;
    for (span, facts) in statements(text, env) {
        prop_assert!(span.start >= end && span.start <= span.end);
        end = span.end;
        count += 1;
        prop_assert!(whole.effects.contains(facts.effects));
        prop_assert!(whole.class != Class::Read || facts.class == Class::Read);
        for part in [facts.evidence, span] {
            prop_assert!(part.end as usize <= text.len());
        }
    }
    prop_assert_eq!(whole.statements, count);
    prop_assert!(work(text, env) <= 8 * text.len() + 64);
    Ok(())
}
