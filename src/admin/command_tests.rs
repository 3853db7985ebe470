//! The grammar as a table.

use proptest::prelude::*;

use super::*;

fn show(what: &str) -> Command {
    Command::Show(what.to_owned())
}

fn set(key: &str, value: &str) -> Command {
    Command::Control(Control::Set {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

#[test]
fn commands_that_are_understood() {
    let app = || Some("app".to_owned());
    for (text, command) in [
        ("SHOW POOLS", show("pools")),
        ("show pools;", show("pools")),
        ("\t Show\r\n PoOlS \n;\n", show("pools")),
        ("SELECT pools", show("pools")),
        ("SHOW \"stats\" ; ;", show("stats")),
        (
            "-- by hand\nSHOW /* a /* nested */ one */ STATS -- end",
            show("stats"),
        ),
        ("/* trace */ SHOW VERSION", show("version")),
        ("SHOW TimeZone", show("timezone")),
        ("", Command::Empty),
        (" ;; ", Command::Empty),
        ("-- ping", Command::Empty),
        ("/* ping */;", Command::Empty),
        ("PAUSE", Command::Control(Control::Pause(None))),
        ("pause app;", Command::Control(Control::Pause(app()))),
        (
            "PAUSE \"App \"\"1\"\"\"",
            Command::Control(Control::Pause(Some("App \"1\"".to_owned()))),
        ),
        (
            "PAUSE App",
            Command::Control(Control::Pause(Some("App".to_owned()))),
        ),
        ("RESUME app", Command::Control(Control::Resume(app()))),
        ("KILL", Command::Control(Control::Kill(None))),
        ("KILL app", Command::Control(Control::Kill(app()))),
        ("RECONNECT app", Command::Control(Control::Reconnect(app()))),
        ("WAIT_CLOSE", Command::Control(Control::WaitClose(None))),
        (
            "DISABLE app",
            Command::Control(Control::Disable("app".to_owned())),
        ),
        (
            "ENABLE 7up",
            Command::Control(Control::Enable("7up".to_owned())),
        ),
        ("KILL_CLIENT 17", Command::Control(Control::KillClient(17))),
        ("SUSPEND", Command::Control(Control::Suspend)),
        ("RELOAD", Command::Control(Control::Reload)),
        (
            "SHUTDOWN",
            Command::Control(Control::Shutdown(ShutdownMode::Immediate)),
        ),
        (
            "shutdown Wait_For_Servers",
            Command::Control(Control::Shutdown(ShutdownMode::WaitForServers)),
        ),
        (
            "SHUTDOWN WAIT_FOR_CLIENTS;",
            Command::Control(Control::Shutdown(ShutdownMode::WaitForClients)),
        ),
        ("SET pool_mode = session", set("pool_mode", "session")),
        ("set pool_mode=session;", set("pool_mode", "session")),
        (
            "SET Pool_Mode TO 'trans''action'",
            set("pool_mode", "trans'action"),
        ),
        ("SET \"to\" to \"to\"", set("to", "to")),
        ("SET server_check_query = ''", set("server_check_query", "")),
        ("SET query_timeout = '1.5h'", set("query_timeout", "1.5h")),
        ("SET client_encoding = 'UTF8'", Command::IgnoredSet),
        ("SET Extra_Float_Digits TO 3", Command::IgnoredSet),
        ("BEGIN", Command::Transaction("BEGIN")),
        (
            "begin isolation level read committed;",
            Command::Transaction("BEGIN"),
        ),
        (
            "START TRANSACTION READ ONLY",
            Command::Transaction("START TRANSACTION"),
        ),
        ("END", Command::Transaction("COMMIT")),
        ("COMMIT", Command::Transaction("COMMIT")),
        ("ABORT", Command::Transaction("ROLLBACK")),
        ("ROLLBACK", Command::Transaction("ROLLBACK")),
    ] {
        assert_eq!(parse(text), Ok(command), "{text}");
    }
}

#[test]
fn explain_route_takes_whatever_follows() {
    let explain = |database: Option<&str>, user: Option<&str>, statement: &str| {
        Command::Explain(ExplainRoute {
            database: database.map(str::to_owned),
            user: user.map(str::to_owned),
            statement: statement.to_owned(),
        })
    };
    for (text, command) in [
        ("EXPLAIN ROUTE SELECT 1", explain(None, None, "SELECT 1")),
        (
            "explain route select 'a;b'; -- c",
            explain(None, None, "select 'a;b'; -- c"),
        ),
        (
            "/* a */ Explain -- b\n /* c /* d */ */ Route\t\n/* pgweir: primary */ SELECT \"x",
            explain(None, None, "/* pgweir: primary */ SELECT \"x"),
        ),
        ("EXPLAIN ROUTE;", explain(None, None, ";")),
        ("EXPLAIN ROUTE'x", explain(None, None, "'x")),
        (
            "EXPLAIN ROUTE FOR app SELECT 1; SELECT 2",
            explain(Some("app"), None, "SELECT 1; SELECT 2"),
        ),
        (
            "EXPLAIN ROUTE for \"my \"\"app\"/* h */ SELECT 1",
            explain(Some("my \"app"), None, "/* h */ SELECT 1"),
        ),
        (
            "EXPLAIN ROUTE FOR app AS alice TABLE t",
            explain(Some("app"), Some("alice"), "TABLE t"),
        ),
        (
            "EXPLAIN ROUTE FOR \"for\" as \"as\" $1",
            explain(Some("for"), Some("as"), "$1"),
        ),
        ("EXPLAIN ROUTE foreign x", explain(None, None, "foreign x")),
        ("EXPLAIN ROUTE AS x", explain(None, None, "AS x")),
    ] {
        assert_eq!(parse(text), Ok(command), "{text}");
    }
    for (text, why) in [
        ("EXPLAIN ROUTE", "a statement is required"),
        ("EXPLAIN ROUTE \n", "a statement is required"),
        ("EXPLAIN ROUTE FOR app", "a statement is required"),
        ("EXPLAIN ROUTE FOR", "a name is required behind FOR and AS"),
        (
            "EXPLAIN ROUTE FOR \"app",
            "a name is required behind FOR and AS",
        ),
        (
            "EXPLAIN ROUTE FOR app AS (",
            "a name is required behind FOR and AS",
        ),
        ("EXPLAIN ROUTE FOR \"\" SELECT 1", "bad arguments"),
    ] {
        assert_eq!(parse(text), Err(Refusal::new(why)), "{text}");
    }
    for text in [
        "EXPLAIN SELECT 1",
        "EXPLAIN",
        "EXPLAIN (ROUTE) SELECT 1",
        "EXPLAIN /* ROUTE",
    ] {
        assert_eq!(parse(text), Err(Refusal::unknown(text)), "{text}");
    }
}

#[test]
fn commands_that_are_unknown() {
    for text in [
        "SELECT 1, 2",
        "SELECT version()",
        "SELECT $1",
        "SHOW",
        "SHOW POOLS app",
        "SHOW 'pools'",
        "POOLS",
        "PAUSE; RESUME",
        "PAUSE app; PAUSE app2",
        "PAUSE a.b",
        "'PAUSE'",
        "PAUSE \"app",
        "PAUSE /* app",
        "RELOAD now",
        "SUSPEND app",
        "SHUTDOWN NOW",
        "SET pool_mode",
        "SET pool_mode session",
        "SET pool_mode == session",
        "SET 'pool_mode' = session",
        "SET pool_mode = a b",
        "START",
        "= x",
        "/",
    ] {
        let expected = format!("invalid command '{text}', use SHOW HELP;");
        assert_eq!(parse(text), Err(Refusal::new(expected)), "{text}");
    }
}

#[test]
fn arguments_are_bounded_and_never_empty() {
    let (name, long) = ("a".repeat(63), "a".repeat(64));
    assert_eq!(
        parse(&format!("PAUSE {name}")),
        Ok(Command::Control(Control::Pause(Some(name))))
    );
    for text in [
        format!("PAUSE {long}"),
        format!("SHOW {long}"),
        format!("SET {long} = 1"),
        format!("SET a = '{}'", "v".repeat(256)),
        "PAUSE \"\"".to_owned(),
        "KILL \"\"".to_owned(),
        "SET \"\" = 1".to_owned(),
        "A_VERB_OF_16_BYTE".to_owned(),
    ] {
        assert_eq!(parse(&text), Err(Refusal::new("bad arguments")), "{text}");
    }
    for text in ["DISABLE", "ENABLE"] {
        assert_eq!(parse(text), Err(Refusal::new("a database is required")));
    }
    for text in [
        "KILL_CLIENT",
        "KILL_CLIENT x",
        "KILL_CLIENT 99999999999999999999",
    ] {
        assert_eq!(parse(text), Err(Refusal::new("invalid client id supplied")));
    }
}

#[test]
fn a_refusal_repeats_the_beginning_of_a_long_command() {
    let text = "ä".repeat(1000);
    let expected = format!("invalid command '={}', use SHOW HELP;", "ä".repeat(255));
    assert_eq!(parse(&format!("={text}")), Err(Refusal::new(expected)));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*|[-/*\"'; a\n=]*") {
        drop(parse(&text));
    }

    #[test]
    fn quoting_a_name_gives_it_back(name in "\\PC{1,15}") {
        let text = format!("PAUSE \"{}\"", name.replace('"', "\"\""));
        prop_assert_eq!(parse(&text), Ok(Command::Control(Control::Pause(Some(name)))));
    }
}
