//! Prepared statements in transaction mode, on real PostgreSQL: a client's names are its own, on whatever
//! server it is, and whatever the server has kept or thrown away.

mod support;

use support::{
    raw::{
        Raw, bind, bind_portal, close, describe_portal, describe_statement, execute,
        execute_portal, flush, parse, parse_typed, query, sync,
    },
    seats::Seats,
};

const INT4: u32 = 23;

/// The answers to a Bind and Execute of a statement with one row of one column.
fn run(client: &mut Raw, name: &str, parameters: &[&str]) -> Vec<String> {
    client.ask(&[bind(name, parameters), execute(), sync()])
}

fn row(value: &str) -> Vec<String> {
    ["2", &format!("D {value}"), "C SELECT 1", "Z I"]
        .map(str::to_owned)
        .into()
}

fn prepare(client: &mut Raw, name: &str, sql: &str) {
    assert_eq!(
        client.ask(&[parse(name, sql), sync()]),
        ["1", "Z I"],
        "{sql}: {}",
        client.last_error
    );
}

#[test]
fn names_mean_what_their_client_has_prepared() {
    let mut seats = Seats::with(|builder| builder.pool("max_prepared_statements", "2"));
    let mut clients = [seats.client(), seats.client()];
    // More than a server keeps, and each name with a text of each client's own.
    for (number, client) in clients.iter_mut().enumerate() {
        for name in ["a", "b", "c", "d"] {
            prepare(
                client,
                name,
                &format!("SELECT '{number}{name}' || $1::int4"),
            );
        }
        prepare(client, "same", "SELECT 'same' || $1::int4");
    }
    for round in 0..6 {
        for (number, client) in clients.iter_mut().enumerate() {
            for name in ["a", "b", "c", "d"] {
                assert_eq!(run(client, name, &["7"]), row(&format!("{number}{name}7")));
            }
            assert_eq!(run(client, "same", &["8"]), row("same8"));
            // All in one batch, more than the server keeps.
            let batch: Vec<_> = ["d", "c", "same", "a"]
                .into_iter()
                .flat_map(|name| [bind(name, &["9"]), execute()])
                .chain([sync()])
                .collect();
            let rows: Vec<_> = client
                .ask(&batch)
                .into_iter()
                .filter(|a| a.starts_with('D'))
                .collect();
            let expected = [
                format!("D {number}d9"),
                format!("D {number}c9"),
                "D same9".to_owned(),
                format!("D {number}a9"),
            ];
            assert_eq!(rows, expected);
        }
        if round % 2 == 0 {
            seats.switch();
        }
    }
    // A client sees what it has, under no other name than PostgreSQL would know if all were its own.
    let kept: i32 = clients[0]
        .value("SELECT count(*) FROM pg_prepared_statements")
        .parse()
        .expect("a number");
    assert!(kept <= 2, "{kept} statements on a server that keeps 2");
}

#[test]
fn errors_name_the_statement_as_the_client_does() {
    let mut seats = Seats::new();
    let mut client = seats.client();
    prepare(&mut client, "first", "SELECT 1");
    prepare(&mut client, "second", "SELECT 1");
    for name in ["second", "first"] {
        assert_eq!(
            client.ask(&[parse(name, "SELECT 2"), sync()]),
            ["E 42P05", "Z I"]
        );
        assert_eq!(
            client.last_error,
            format!("42P05 prepared statement \"{name}\" already exists")
        );
        assert_eq!(
            client.error(&format!("PREPARE {name} AS SELECT 3")),
            "42P05"
        );
        assert_eq!(
            client.last_error,
            format!("42P05 prepared statement \"{name}\" already exists")
        );
        assert_eq!(run(&mut client, name, &[]), row("1"));
    }
    for name in ["none", "pgweir_1", "pgweir_9999"] {
        for messages in [
            vec![bind(name, &[]), execute(), sync()],
            vec![describe_statement(name), sync()],
        ] {
            assert_eq!(client.ask(&messages), ["E 26000", "Z I"]);
            assert!(
                client
                    .last_error
                    .contains(&format!("{name}\" does not exist")),
                "{}",
                client.last_error
            );
        }
        assert_eq!(client.error(&format!("EXECUTE {name}")), "26000");
        assert_eq!(client.error(&format!("DEALLOCATE {name}")), "26000");
        assert!(
            client
                .last_error
                .contains(&format!("{name}\" does not exist")),
            "{}",
            client.last_error
        );
    }
    // A Parse that fails gives its name back.
    assert_eq!(
        client.ask(&[parse("new", "SELEKT"), sync()]),
        ["E 42601", "Z I"]
    );
    assert_eq!(run(&mut client, "new", &[]), ["E 26000", "Z I"]);
    seats.switch();
    prepare(&mut client, "new", "SELECT 2");
    assert_eq!(run(&mut client, "new", &[]), row("2"));
    assert_eq!(
        client.ask(&[parse("late", "SELECT * FROM nowhere"), sync()]),
        ["E 42P01", "Z I"]
    );
    seats.direct("CREATE TABLE nowhere AS SELECT 5 AS a");
    prepare(&mut client, "late", "SELECT * FROM nowhere");
    assert_eq!(run(&mut client, "late", &[]), row("5"));
}

#[test]
fn a_name_ends_in_every_way_that_postgresql_has() {
    let mut seats = Seats::new();
    let ways: [Vec<Vec<u8>>; 8] = [
        vec![close(b'S', "a"), sync()],
        vec![query("DEALLOCATE a")],
        vec![query("DEALLOCATE PREPARE \"a\"")],
        vec![query("DEALLOCATE ALL")],
        vec![query("DISCARD ALL")],
        vec![query("SELECT 1; DEALLOCATE ALL")],
        vec![parse("", "DEALLOCATE a"), bind("", &[]), execute(), sync()],
        vec![
            parse("", "DEALLOCATE ALL"),
            bind("", &[]),
            execute(),
            sync(),
        ],
    ];
    for (number, ends) in ways.into_iter().enumerate() {
        let mut client = seats.client();
        let mut other = seats.client();
        for client in [&mut client, &mut other] {
            prepare(client, "a", "SELECT 1");
        }
        if number % 2 == 0 {
            seats.switch();
        }
        let answers = client.ask(&ends);
        assert!(
            !answers.iter().any(|answer| answer.starts_with('E')),
            "{number}: {answers:?} {}",
            client.last_error
        );
        assert_eq!(answers.last().map(String::as_str), Some("Z I"));
        assert_eq!(run(&mut client, "a", &[]), ["E 26000", "Z I"], "{number}");
        prepare(&mut client, "a", "SELECT 2");
        assert_eq!(run(&mut client, "a", &[]), row("2"));
        assert_eq!(
            run(&mut other, "a", &[]),
            row("1"),
            "another client's, {number}"
        );
        client.terminate();
        other.terminate();
    }
    let mut client = seats.client();
    prepare(&mut client, "a", "SELECT 1");
    client.run("DISCARD PLANS");
    assert_eq!(run(&mut client, "a", &[]), row("1"));
    // Of a name that does not exist, Close says nothing.
    assert_eq!(client.ask(&[close(b'S', "none"), sync()]), ["3", "Z I"]);
    // What a failed transaction would not let happen has not happened.
    client.run("BEGIN");
    assert_eq!(client.error("SELECT 1/0"), "22012");
    assert_eq!(client.error("DEALLOCATE a"), "25P02");
    client.run("ROLLBACK");
    assert_eq!(run(&mut client, "a", &[]), row("1"));
}

#[test]
fn sql_and_protocol_share_the_names() {
    let mut seats = Seats::with(|builder| builder.pool("max_prepared_statements", "2"));
    let mut client = seats.client();
    let mut other = seats.client();
    client.run("PREPARE \"By SQL\" (int4) AS SELECT 'sql ' || $1");
    assert_eq!(
        client.ask(&[
            parse_typed("proto", "SELECT 'proto ' || $1", &[INT4]),
            sync()
        ]),
        ["1", "Z I"]
    );
    other.run("PREPARE \"By SQL\" (int4) AS SELECT 'other ' || $1");
    for round in 0..4 {
        assert_eq!(client.value("EXECUTE \"By SQL\" (1)"), "sql 1");
        assert_eq!(run(&mut client, "By SQL", &["2"]), row("sql 2"));
        assert_eq!(client.value("EXECUTE proto(3)"), "proto 3");
        assert_eq!(run(&mut client, "proto", &["4"]), row("proto 4"));
        assert_eq!(other.value("EXECUTE \"By SQL\" (5)"), "other 5");
        assert!(
            client
                .rows("EXPLAIN (COSTS OFF) EXECUTE proto(6)")
                .concat()
                .contains("Result")
        );
        client.run(&format!(
            "CREATE TABLE made_{round} AS EXECUTE \"By SQL\" (7)"
        ));
        assert_eq!(client.value(&format!("TABLE made_{round}")), "sql 7");
        // EXECUTE within the extended protocol.
        let nested = [
            parse("", "EXECUTE proto(8)"),
            bind("", &[]),
            execute(),
            sync(),
        ];
        let answers = client.ask(&nested);
        assert!(
            answers.contains(&"D proto 8".to_owned()),
            "{answers:?} {}",
            client.last_error
        );
        seats.switch();
    }
    assert_eq!(
        client.ask(&[
            describe_statement("By SQL"),
            describe_statement("proto"),
            sync()
        ]),
        ["t 1", "T ?column?", "t 1", "T ?column?", "Z I"]
    );
    // In a transaction that is rolled back the statement stays, as PostgreSQL has it.
    client.run("BEGIN");
    client.run("PREPARE stays AS SELECT 'stays'");
    client.run("ROLLBACK");
    seats.switch();
    assert_eq!(client.value("EXECUTE stays"), "stays");
    // All of it in one string is nobody's business but the server's.
    assert_eq!(
        client.rows("PREPARE x AS SELECT 1; EXECUTE x; DEALLOCATE x"),
        ["1"]
    );
    assert!(!seats.is_pinned(&mut client));
}

#[test]
fn portals_live_as_long_as_their_transaction() {
    let mut seats = Seats::new();
    let mut client = seats.client();
    prepare(&mut client, "series", "SELECT * FROM generate_series(1, 5)");
    seats.switch();
    client.run("BEGIN");
    assert_eq!(
        client.ask(&[
            bind_portal("p", "series", &[]),
            describe_portal("p"),
            execute_portal("p", 2),
            sync()
        ]),
        ["2", "T generate_series", "D 1", "D 2", "s", "Z T"]
    );
    assert_eq!(
        client.ask(&[
            execute_portal("p", 2),
            bind_portal("q", "series", &[]),
            execute_portal("q", 1),
            sync()
        ]),
        ["D 3", "D 4", "s", "2", "D 1", "s", "Z T"]
    );
    assert_eq!(
        client.ask(&[execute_portal("p", 0), sync()]),
        ["D 5", "C SELECT 1", "Z T"]
    );
    assert_eq!(
        client.ask(&[close(b'P', "q"), execute_portal("q", 1), sync()]),
        ["3", "E 34000", "Z E"]
    );
    client.run("ROLLBACK");
    // Without a transaction block the Sync ends it.
    assert_eq!(
        client.ask(&[bind("series", &[]), execute_portal("", 1), sync()]),
        ["2", "D 1", "s", "Z I"]
    );
    assert_eq!(
        client.ask(&[execute_portal("", 1), sync()]),
        ["E 34000", "Z I"]
    );
}

#[test]
fn a_flush_brings_the_answers_and_the_batch_goes_on() {
    let seats = Seats::new();
    let mut client = seats.client();
    let mut other = seats.client();
    prepare(&mut other, "x", "SELECT 'flushed ' || $1::int4");
    client.send(
        &[
            parse("f", "SELECT 'flushed ' || $1::int4"),
            describe_statement("f"),
            flush(),
        ]
        .concat(),
    );
    for expected in ["1", "t 1", "T ?column?"] {
        assert_eq!(client.answer(), expected);
    }
    client.send(&[bind("f", &["1"]), flush()].concat());
    assert_eq!(client.answer(), "2");
    client.send(&[execute(), flush()].concat());
    assert_eq!(
        [client.answer(), client.answer()],
        ["D flushed 1", "C SELECT 1"]
    );
    // The server is the client's until the Sync: an error now voids what came before.
    client.send(&[close(b'S', "f"), flush()].concat());
    assert_eq!(client.answer(), "3");
    client.send(&[bind("nothing", &[]), flush()].concat());
    assert_eq!(client.answer(), "E 26000");
    assert_eq!(client.ask(&[sync()]), ["Z I"]);
}

#[test]
fn pipelines_go_on_behind_their_errors() {
    let mut seats = Seats::with(|builder| builder.pool("max_prepared_statements", "2"));
    seats.direct("CREATE TABLE t (a int PRIMARY KEY)");
    let mut client = seats.client();
    for round in 0..4 {
        let pipeline = [
            parse("i", "INSERT INTO t VALUES ($1::int4)"),
            bind("i", &["1"]),
            execute(),
            sync(),
            bind("i", &["1"]),
            execute(),
            parse("lost", "SELECT 'lost'"),
            close(b'S', "i"),
            sync(),
            bind("i", &["2"]),
            execute(),
            sync(),
            query("SELECT 1/0"),
            parse("", "SELECT 'unnamed'"),
            bind("", &[]),
            execute(),
            sync(),
            bind("lost", &[]),
            sync(),
            query("DELETE FROM t"),
            close(b'S', "i"),
            sync(),
        ];
        client.send(&pipeline.concat());
        let mut answers = Vec::new();
        for _ in 0..8 {
            answers.push(client.answers().join(", "));
        }
        assert_eq!(
            answers,
            [
                "1, 2, C INSERT 0 1, Z I",
                "2, E 23505, Z I",
                "2, C INSERT 0 1, Z I",
                "E 22012, Z I",
                "1, 2, D unnamed, C SELECT 1, Z I",
                "E 26000, Z I",
                "C DELETE 2, Z I",
                "3, Z I"
            ],
            "round {round}"
        );
        seats.switch();
    }
}

#[test]
fn the_unnamed_statement_is_its_clients_alone() {
    let mut seats = Seats::new();
    let mut client = seats.client();
    let mut other = seats.client();
    for switches in [false, true] {
        assert_eq!(
            client.ask(&[parse("", "SELECT 'mine ' || $1::text"), sync()]),
            ["1", "Z I"]
        );
        assert_eq!(
            other.ask(&[parse("", "SELECT 'other ' || $1::text"), sync()]),
            ["1", "Z I"]
        );
        if switches {
            seats.switch();
        }
        for _ in 0..2 {
            assert_eq!(run(&mut client, "", &["x"]), row("mine x"));
            assert_eq!(run(&mut other, "", &["x"]), row("other x"));
        }
    }
    let long = format!("SELECT 'long' -- {}", "x".repeat(100_000));
    let mut leavings: Vec<Vec<Vec<u8>>> = vec![
        vec![parse("", "SELECT 'left'"), sync()],
        vec![parse("", &long), sync()],
        vec![
            parse("", "SELECT 'left'"),
            sync(),
            parse("a", "SELECT 1"),
            sync(),
            parse("a", "SELECT 1"),
            sync(),
        ],
        vec![
            parse("", "SELECT 'left'"),
            sync(),
            bind("none", &[]),
            parse("", "SELECT 1"),
            sync(),
        ],
        vec![
            parse("", "SELECT 'left'"),
            sync(),
            bind("none", &[]),
            query("SELECT 1"),
            sync(),
        ],
        vec![
            parse("", "SELECT 'left'"),
            sync(),
            bind("none", &[]),
            close(b'S', ""),
            sync(),
        ],
    ];
    for leaving in &mut leavings {
        let mut leaver = seats.client();
        leaver.send(&leaving.concat());
        let syncs = leaving.iter().filter(|message| message[0] == b'S').count();
        for _ in 0..syncs {
            leaver.answers();
        }
        // Somebody who has prepared nothing finds nothing.
        let mut fresh = seats.client();
        assert_eq!(run(&mut fresh, "", &[]), ["E 26000", "Z I"]);
        fresh.terminate();
        leaver.terminate();
    }
}

/// A text, one setting and what it means under that, another setting and what it means then.
const MEANINGS: [(&str, &str, &str, &str, &str); 5] = [
    (
        "SELECT * FROM t",
        "SET search_path = one",
        "one",
        "SET search_path = two",
        "two",
    ),
    // Constants are read when the statement is prepared.
    (
        "SELECT to_char('01/02/2020'::date, 'Mon')",
        "SET DateStyle = 'SQL, DMY'",
        "Feb",
        "SET DateStyle = 'SQL, MDY'",
        "Jan",
    ),
    (
        "SELECT extract(epoch FROM '2020-01-01 00:00'::timestamptz)::int8 % 86400",
        "SET TIME ZONE 'UTC'",
        "0",
        "SET TIME ZONE '-01'",
        "3600",
    ),
    (
        r"SELECT length('a\\b')",
        "SET standard_conforming_strings = on",
        "4",
        "SET standard_conforming_strings = off",
        "3",
    ),
    (
        "SELECT NULL = NULL IS NULL",
        "SET transform_null_equals = off",
        "t",
        "SET transform_null_equals = on",
        "f",
    ),
];

#[test]
fn what_a_text_means_is_decided_by_its_own_clients_settings() {
    let mut seats = Seats::new();
    seats.direct(
        "CREATE TABLE t AS SELECT 'zero' AS a;
         CREATE SCHEMA one; CREATE TABLE one.t AS SELECT 'one' AS a;
         CREATE SCHEMA two; CREATE TABLE two.t AS SELECT 'two' AS a",
    );
    for (text, sets_one, one_value, sets_two, two_value) in MEANINGS {
        for in_transaction in [false, true] {
            let mut one = seats.client();
            let mut two = seats.client();
            for (client, sets, value) in [
                (&mut one, sets_one, one_value),
                (&mut two, sets_two, two_value),
            ] {
                if in_transaction {
                    // Set, prepared and used before the pooler can have asked for the settings.
                    client.send(
                        &[
                            query("BEGIN"),
                            query(sets),
                            parse("s", text),
                            bind("s", &[]),
                            execute(),
                            sync(),
                            query("COMMIT"),
                        ]
                        .concat(),
                    );
                    let answers: Vec<_> = (0..4).flat_map(|_| client.answers()).collect();
                    assert!(
                        answers.contains(&format!("D {value}")),
                        "{text}: {answers:?}"
                    );
                } else {
                    client.run(sets);
                    prepare(client, "s", text);
                }
            }
            for _ in 0..4 {
                assert_eq!(run(&mut one, "s", &[]), row(one_value), "{text}");
                assert_eq!(run(&mut two, "s", &[]), row(two_value), "{text}");
                seats.switch();
            }
            one.terminate();
            two.terminate();
        }
        // Prepared under other settings than those under which another server has to read it.
        let mut changes = seats.client();
        changes.run(sets_one);
        prepare(&mut changes, "s", text);
        changes.run(sets_two);
        seats.switch();
        run(&mut changes, "s", &[]);
        let mut first = seats.client();
        first.run(sets_one);
        prepare(&mut first, "s", text);
        assert_eq!(run(&mut first, "s", &[]), row(one_value), "{text}");
        first.terminate();
        changes.terminate();
        // SET LOCAL, and somebody who comes later with settings of his own.
        let mut local = seats.client();
        let sets = sets_two.replace("SET ", "SET LOCAL ");
        local.run("BEGIN");
        local.run(&sets);
        prepare_in_transaction(&mut local, text);
        local.run("COMMIT");
        let mut one = seats.client();
        one.run(sets_one);
        prepare(&mut one, "s", text);
        assert_eq!(
            run(&mut one, "s", &[]),
            row(one_value),
            "{text} behind {sets}"
        );
        let mut plain = seats.client();
        let default = plain.value(text);
        prepare(&mut plain, "s", text);
        assert_eq!(
            run(&mut plain, "s", &[]),
            row(&default),
            "{text} behind {sets}"
        );
    }
}

fn prepare_in_transaction(client: &mut Raw, sql: &str) {
    // It may not even be possible without the settings: then nothing is left behind.
    let answers = client.ask(&[parse("local", sql), sync()]);
    assert_eq!(answers, ["1", "Z T"], "{}", client.last_error);
}

#[test]
fn a_plan_that_has_changed_its_type_is_made_anew_unseen() {
    let mut seats = Seats::new();
    seats.direct("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let mut client = seats.client();
    let mut other = seats.client();
    prepare(&mut client, "all", "SELECT * FROM t");
    prepare(&mut other, "everything", "SELECT * FROM t");
    client.run("PREPARE by_sql AS SELECT * FROM t WHERE true");
    let number = 0;
    {
        assert!(run(&mut client, "all", &[]).contains(&format!("D {}", ["1", "1|NULL"][number])));
        for _ in 0..2 {
            run(&mut client, "all", &[]);
            client.query("EXECUTE by_sql");
            client.run("EXECUTE by_sql");
            seats.switch();
        }
        seats.direct(&format!("ALTER TABLE t ADD COLUMN b{number} int"));
        let values = ["1|NULL", "1|NULL|NULL"][number];
        let names = ["T a|b0", "T a|b0|b1"][number];
        for _ in 0..2 {
            let expected = [&format!("D {values}"), "C SELECT 1", "Z I"];
            assert_eq!(
                client.ask(&[bind("all", &[]), describe_portal(""), execute(), sync()]),
                [&["2", names], &expected[..]].concat()
            );
            // SQL's EXECUTE is told, as PostgreSQL tells it, and once a server.
            assert_eq!(client.query("EXECUTE by_sql"), ["E 0A000", "Z I"]);
            assert_eq!(
                client.query("EXECUTE by_sql"),
                [&[names], &expected[..]].concat()
            );
            seats.switch();
        }
        // A client that prepares the text now is told how it is now.
        let mut fresh = seats.client();
        assert_eq!(
            fresh.ask(&[
                parse("new", "SELECT * FROM t"),
                describe_statement("new"),
                sync()
            ]),
            ["1", "t 0", names, "Z I"]
        );
        seats.direct(&format!("ALTER TABLE t ALTER b{number} TYPE text"));
        assert_eq!(
            fresh.ask(&[
                parse("newer", "SELECT * FROM t"),
                describe_statement("newer"),
                bind("newer", &[]),
                execute(),
                sync()
            ])[..3],
            ["1", "t 0", names]
        );
        // Who does not ask what rows look like now would misread them.
        assert_eq!(run(&mut other, "everything", &[]), ["E 0A000", "Z I"]);
    }
}

#[test]
fn within_a_transaction_a_changed_plan_is_an_error_until_it_is_prepared_anew() {
    let seats = Seats::new();
    seats.direct("CREATE TABLE t (a int)");
    let mut client = seats.client();
    prepare(&mut client, "all", "SELECT * FROM t");
    run(&mut client, "all", &[]);
    seats.direct("ALTER TABLE t ADD COLUMN b int");
    client.run("BEGIN");
    assert_eq!(run(&mut client, "all", &[]), ["E 0A000", "Z E"]);
    client.run("ROLLBACK");
    // As in a session of its own: the client has been told of other columns, and must ask again.
    assert_eq!(run(&mut client, "all", &[]), ["E 0A000", "Z I"]);
    prepare(&mut client, "anew", "SELECT * FROM t");
    assert_eq!(run(&mut client, "anew", &[]), ["2", "C SELECT 0", "Z I"]);
    // Nor is it tried again where something has been done already.
    seats.direct("CREATE TABLE u (a int); ALTER TABLE t ADD COLUMN c int");
    prepare(&mut client, "insert", "INSERT INTO u VALUES (1)");
    let answers = client.ask(&[
        bind("insert", &[]),
        execute(),
        bind("anew", &[]),
        execute(),
        sync(),
    ]);
    assert_eq!(answers, ["2", "C INSERT 0 1", "E 0A000", "Z I"]);
    assert_eq!(seats.direct("SELECT count(*) FROM u"), "0");
}

#[test]
fn a_statement_that_the_server_has_lost_is_made_anew_unseen() {
    let mut seats = Seats::new();
    seats.direct(
        "CREATE FUNCTION forgets() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$;
         CREATE FUNCTION invents(name text) RETURNS void LANGUAGE plpgsql
             AS $$ BEGIN EXECUTE format('PREPARE %I AS SELECT ''evil''', name); END $$",
    );
    let mut client = seats.client();
    let mut other = seats.client();
    prepare(&mut client, "a", "SELECT 'a'");
    client.run("PREPARE b AS SELECT 'b'");
    prepare(&mut other, "a", "SELECT 'a'");
    for _ in 0..2 {
        for lost in [
            "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$",
            "SELECT forgets()",
        ] {
            client.run(lost);
            assert_eq!(run(&mut other, "a", &[]), row("a"), "after {lost}");
            client.run(lost);
            assert_eq!(run(&mut client, "a", &[]), row("a"), "after {lost}");
            client.run(lost);
            // SQL's EXECUTE may be told, and once.
            client.query("EXECUTE b");
            assert_eq!(client.value("EXECUTE b"), "b", "after {lost}");
        }
        seats.switch();
    }
    // Statements of others under the names that will come.
    let names = client.value("SELECT coalesce(max(substr(name, 8)::int), 0) FROM pg_prepared_statements WHERE name ~ '^pgweir_[0-9]+$'");
    let next: i32 = names.parse().expect("a number");
    let mut evil = seats.client();
    for number in next..next + 20 {
        evil.query(&format!("SELECT invents('pgweir_{number}')"));
    }
    evil.terminate();
    for name in ["c", "d", "e"] {
        let text = format!("SELECT '{name}'");
        assert_eq!(
            client.ask(&[parse(name, &text), sync()]),
            ["1", "Z I"],
            "{}",
            client.last_error
        );
        assert_eq!(run(&mut client, name, &[]), row(name));
    }
}

#[test]
fn a_function_cannot_put_its_own_in_the_place_of_anothers_statement() {
    let mut seats = Seats::new();
    seats.direct(
        "CREATE FUNCTION forges() RETURNS void LANGUAGE plpgsql AS $$
             DECLARE of_others text;
             BEGIN
                 FOR of_others IN SELECT name FROM pg_prepared_statements LOOP
                     EXECUTE 'DEALLOCATE ' || of_others;
                     EXECUTE 'PREPARE ' || of_others || ' AS SELECT ''forged''';
                 END LOOP;
             END $$",
    );
    let mut honest = seats.client();
    honest.ask(&[parse("by protocol", "SELECT 'honest'"), sync()]);
    honest.run("PREPARE by_sql AS SELECT 'honest'");
    for forges in ["SELECT forges()", "DO $$ BEGIN PERFORM forges(); END $$"] {
        let answers = honest.ask(&[bind("by protocol", &[]), execute(), sync()]);
        assert_eq!(answers, ["2", "D honest", "C SELECT 1", "Z I"], "{forges}");
        assert_eq!(honest.value("EXECUTE by_sql"), "honest", "{forges}");
        let mut forger = seats.client();
        forger.run(forges);
        assert!(!seats.is_pinned(&mut forger), "{forges}");
    }
    let answers = honest.ask(&[bind("by protocol", &[]), execute(), sync()]);
    assert_eq!(answers, ["2", "D honest", "C SELECT 1", "Z I"]);
    assert_eq!(honest.value("EXECUTE by_sql"), "honest");
}
