//! Facts about single texts that the pooler leans on. The large table of statements is `tests/statements.rs`.

use super::*;

fn facts(text: &str) -> Facts {
    classify(text.as_bytes(), &Env::default())
}

fn read(text: &str) {
    let facts = facts(text);
    assert_eq!(facts.class, Class::Read, "{text}: {facts:?}");
}

fn write(text: &str, reason: Reason) {
    let facts = facts(text);
    assert_eq!(
        (facts.class, facts.reason),
        (Class::Write, reason),
        "{text}"
    );
}

fn unknown(text: &str, reason: Reason) {
    let facts = facts(text);
    assert_eq!(
        (facts.class, facts.reason),
        (Class::Unknown, reason),
        "{text}"
    );
    assert!(facts.effects.contains(Effects::UNKNOWN));
}

#[test]
fn strings_and_comments_hide_what_looks_like_sql() {
    read("select 'for update', \"into\", $$ insert $$, $a$ $$ ; drop $a$ -- for update\n from t");
    read("select 1 /* for update /* nested */ into t */ from t");
    read(r"select E'a\'b; delete', 'it''s; delete'");
    read("select 'a'\n-- for update\n'b; delete'");
    read("select U&'d\\0061t' uescape '!', N'x', B'01', X'1F'");
    write("select 1 -- x\r for update", Reason::LockingClause);
    write(r"select E'a\\' for update", Reason::LockingClause);
    write(r"select 'a\' for update", Reason::LockingClause);
}

#[test]
fn an_escape_string_goes_on_over_lines_as_one() {
    read("select E'a'\n  'b\\' for update'");
    read("select E'a' -- c\n  'b\\' for update'");
    write("select E'a' 'b\\' for update", Reason::LockingClause);
}

#[test]
fn what_does_not_end_is_unknown() {
    for text in [
        "select 'a",
        "select \"a",
        "select $x$ $y$",
        "select /* /* */",
        "select E'a\\",
        "'",
    ] {
        unknown(text, Reason::Unterminated);
    }
    for text in [
        "select $",
        "select \\",
        "select {",
        "select 1\0",
        "select (1",
        "select 1)",
        "select (1;)",
    ] {
        unknown(text, Reason::Malformed);
    }
}

#[test]
fn no_keyword_hides_inside_a_number() {
    for text in [
        "select * from t limit 1for update",
        "select * from t limit 1e5for update",
        "select 1_0for update",
    ] {
        write(text, Reason::LockingClause);
    }
    read("select 1e5, 1.5e-3, .5, 0x1F, 1_000, a[1:2], $1");
}

#[test]
fn standard_conforming_strings_off_matters_only_with_a_backslash() {
    let env = Env {
        standard_conforming_strings: false,
        ..Env::default()
    };
    assert_eq!(
        classify(b"select 'a' for update", &env).reason,
        Reason::LockingClause
    );
    assert_eq!(classify(b"select 'a'", &env).class, Class::Read);
    for text in [&b"select 'a\\'"[..], b"select 'a\\n'", b"select n'\\''"] {
        assert_eq!(classify(text, &env).class, Class::Unknown);
    }
    assert_eq!(classify(b"select e'\\''", &env).class, Class::Read);
}

#[test]
fn an_unsafe_encoding_matters_only_outside_ascii() {
    let env = Env {
        ascii_safe_encoding: false,
        ..Env::default()
    };
    assert_eq!(classify(b"select 1", &env).class, Class::Read);
    assert_eq!(
        classify(b"select '\x83\x5c'", &env).reason,
        Reason::UnsafeEncoding
    );
}

#[test]
fn what_is_newer_than_the_server_is_no_builtin() {
    for (server_version, class) in [
        (0, Class::Write),
        (15, Class::Write),
        (18, Class::Read),
        (19, Class::Read),
    ] {
        let env = Env {
            server_version,
            ..Env::default()
        };
        assert_eq!(
            classify(b"select uuidv7()", &env).class,
            class,
            "{server_version}"
        );
    }
}

#[test]
fn a_text_over_the_limit_is_not_looked_at() {
    let env = Env {
        max_len: 8,
        ..Env::default()
    };
    assert_eq!(classify(b"select 1", &env).class, Class::Read);
    let facts = classify(b"select 12", &env);
    assert_eq!(
        (facts.class, facts.reason),
        (Class::Unknown, Reason::TooLong)
    );
    assert!(facts.effects.contains(Effects::UNKNOWN));
}

#[test]
fn words_after_as_and_dots_are_names() {
    read("select a as into, b as update, t.insert, x.for from t as x");
    read("with x as not materialized (select 1) select * from x");
    write(
        "with x as materialized (insert into t values (1)) select * from x",
        Reason::DataModifyingCte,
    );
}

#[test]
fn a_parenthesis_after_a_word_is_a_call_unless_proved_otherwise() {
    for text in [
        "with a(x), b(y) as (select 1) select * from a, b",
        "select * from f.t as t(a, b)",
        "select * from generate_series(1, 2) g(i), unnest(a) with ordinality u(v, n)",
        "select x::numeric(10, 2), cast(y as character varying(10)), 'a'::bit varying(3)",
        "select * from json_to_record('{}') as r(a numeric(1,2), b varchar(3))",
        "select count(*) filter (where a > 1) over (partition by b order by c) from t",
        "select a, b from t group by grouping sets ((a), (b)), rollup (a, b), cube (a)",
        "select * from a left join (select 1) b on (true) join (c cross join d) using (x)",
        "select interval '1' second(3), timestamp(3) '2020-01-01', time(0) '10:00'",
        "select * from t tablesample system(10) repeatable (1)",
        "select a operator(pg_catalog.+) b from t",
        "select percentile_cont(0.5) within group (order by x) from t",
        "select * from t fetch first (1) rows only",
        "select extract(year from now()), substring(a from 1 for 2), trim(both 'x' from y)",
        "select (select 1), array(select 2), exists (select 3), row(1, 2), a in (1, 2) from t",
    ] {
        read(text);
    }
    for text in [
        "select f(1)",
        "select distinct on (a) f(b) from t",
        "select a operator(pg_catalog.+) f(b) from t",
        "select 1 from f()",
        "select over(1)",
        "select join(1)",
        "select public.count(*)",
        "select \"Lower\"('x')",
        "select operator(1)",
        "select treat(1 as nextval)",
        "with x as (select 1) (select 2) order by f(1)",
        "select * from t where a = any (array[f(1)])",
        "select * from t tablesample system(f(1))",
        "select pg_catalog.no_such(1)",
    ] {
        write(text, Reason::UnknownFunction);
        assert!(
            facts(text).effects.contains(Effects::UNKNOWN_FUNCTION),
            "{text}"
        );
    }
    write("select U&\"low\\0065r\"(x) from t", Reason::EscapedName);
    read("select pg_catalog.lower('x'), \"lower\"('x'), \"pg_catalog\".\"lower\"('x')");
}

#[test]
fn parentheses_too_deep_to_remember_are_taken_cautiously() {
    let nested = |depth| {
        format!(
            "select * from {}select 1{} t(a)",
            "(".repeat(depth),
            ")".repeat(depth)
        )
    };
    read(&nested(64));
    write(&nested(65), Reason::UnknownFunction);
}

#[test]
fn evidence_points_at_what_decided() {
    let text = "select a, nextval('s') from t";
    let facts = facts(text);
    assert_eq!(facts.evidence.of(text.as_bytes()), b"nextval");
    assert_eq!(facts.reason, Reason::SequenceFunction);
}

#[test]
fn statements_are_told_apart() {
    let text = " ; begin; set x = 'a;b' ;; select 1 ; ";
    let env = Env::default();
    let found: Vec<_> = statements(text.as_bytes(), &env)
        .map(|(span, facts)| {
            (
                std::str::from_utf8(span.of(text.as_bytes()))
                    .unwrap()
                    .trim(),
                facts.class,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("begin", Class::Begin),
            ("set x = 'a;b'", Class::Set),
            ("select 1", Class::Read)
        ]
    );
    assert_eq!(facts(text).statements, 3);
    assert_eq!(facts(text).class, Class::Write);
    assert_eq!(facts("select 1; select 2;").class, Class::Read);
    assert_eq!(facts("select 1; select 'x").class, Class::Unknown);
    assert_eq!(facts(" -- nothing\n;").class, Class::Empty);
}

#[test]
fn semicolons_inside_definitions_do_not_end_them() {
    let function = "create function f() returns int language sql begin atomic \
                    select case when true then 1 end; select 2; end; select 3";
    assert_eq!(facts(function).statements, 2);
    let rule =
        "create rule r as on insert to t do also (insert into u values (1); notify x); select 1";
    assert_eq!(facts(rule).statements, 2);
}

#[test]
fn transaction_control_is_read_whole() {
    let control = |text: &str| facts(text).transaction;
    let modes = TxModes {
        read_only: Some(true),
        isolation: Some(Isolation::RepeatableRead),
        deferrable: Some(false),
    };
    for text in [
        "begin isolation level repeatable read, read only, not deferrable",
        "START TRANSACTION READ WRITE READ ONLY ISOLATION LEVEL REPEATABLE READ NOT DEFERRABLE;",
    ] {
        assert_eq!(control(text), Some(TxControl::Begin(modes)), "{text}");
    }
    let read_write = TxModes {
        read_only: Some(false),
        ..TxModes::default()
    };
    assert_eq!(
        control("begin read only read write"),
        Some(TxControl::Begin(read_write))
    );
    assert_eq!(
        control("begin work"),
        Some(TxControl::Begin(TxModes::default()))
    );
    assert_eq!(
        control("end transaction and no chain"),
        Some(TxControl::Commit { chain: false })
    );
    assert_eq!(
        control("abort work and chain"),
        Some(TxControl::Rollback { chain: true })
    );
    assert_eq!(
        control("prepare transaction 'x'"),
        Some(TxControl::PrepareTransaction)
    );
    assert_eq!(
        control("commit prepared 'x'"),
        Some(TxControl::CommitPrepared)
    );
    assert_eq!(control("begin read only foo"), None);
    for (text, name) in [
        ("savepoint \"A b\"", "\"A b\""),
        ("release savepoint sp", "sp"),
        ("release savepoint", "savepoint"),
        ("rollback to savepoint sp", "sp"),
        ("rollback work to sp", "sp"),
    ] {
        let Some(
            TxControl::Savepoint { name: span }
            | TxControl::Release { name: span }
            | TxControl::RollbackTo { name: span },
        ) = control(text)
        else {
            panic!("{text}");
        };
        assert_eq!(span.of(text.as_bytes()), name.as_bytes());
    }
    let read_only = TxModes {
        read_only: Some(true),
        ..TxModes::default()
    };
    for text in [
        "set transaction read only",
        "set local transaction read only",
        "set transaction_read_only to 'on'",
    ] {
        assert_eq!(
            control(text),
            Some(TxControl::SetTransaction(read_only)),
            "{text}"
        );
        assert!(!facts(text).effects.contains(Effects::SETS), "{text}");
    }
    assert_eq!(
        control("set session characteristics as transaction read only"),
        Some(TxControl::SetSessionCharacteristics {
            modes: read_only,
            local: false
        })
    );
}

#[test]
fn settings_are_named_and_scoped() {
    let set = |text: &str| {
        let Detail::Set {
            scope,
            parameter,
            value,
        } = facts(text).detail
        else {
            panic!("{text}")
        };
        (
            scope,
            String::from_utf8(parameter.name(text.as_bytes())).unwrap(),
            value.map(|v| String::from_utf8(v.of(text.as_bytes()).to_vec()).unwrap()),
        )
    };
    use SetScope::{Local, Session};
    for (text, scope, name, value) in [
        ("set work_mem = '4MB'", Session, "work_mem", Some("'4MB'")),
        (
            "SET SESSION Search_Path TO a, \"B\" ;",
            Session,
            "search_path",
            Some("a, \"B\""),
        ),
        (
            "set local \"App\".\"user id\" = 7",
            Local,
            "app.user id",
            Some("7"),
        ),
        ("set x to default", Session, "x", None),
        ("set time zone local", Session, "timezone", None),
        (
            "set time zone interval '1' hour to minute",
            Session,
            "timezone",
            Some("interval '1' hour to minute"),
        ),
        (
            "set names 'utf8'",
            Session,
            "client_encoding",
            Some("'utf8'"),
        ),
        ("set schema 'x'", Session, "search_path", Some("'x'")),
        ("set local role none", Local, "role", Some("none")),
        ("set role to x", Session, "role", Some("x")),
        (
            "set session session authorization default",
            Session,
            "session_authorization",
            None,
        ),
        (
            "set session authorization 'joe'",
            Session,
            "session_authorization",
            Some("'joe'"),
        ),
        (
            "set xml option content",
            Session,
            "xmloption",
            Some("content"),
        ),
        ("set session.x = 1", Session, "session.x", Some("1")),
    ] {
        assert_eq!(
            set(text),
            (scope, name.to_owned(), value.map(str::to_owned)),
            "{text}"
        );
    }
    assert_eq!(facts("reset all").detail, Detail::Reset { parameter: None });
    assert_eq!(
        facts("reset time zone").detail,
        Detail::Reset {
            parameter: Some(Parameter::TimeZone)
        }
    );
    assert!(
        facts("reset session authorization")
            .effects
            .contains(Effects::SET_ROLE)
    );
    assert!(
        facts("set search_path = pg_temp, public")
            .effects
            .contains(Effects::TEMP_OBJECT)
    );
    assert_eq!(facts("show transaction isolation level").class, Class::Read);
    assert_eq!(
        facts("show transaction_read_only").reason,
        Reason::ServerLocal
    );
    assert_eq!(facts("set constraints all immediate").class, Class::Write);
}

#[test]
fn set_config_is_found_with_its_arguments() {
    let text = "select set_config('app.user', '7', true)";
    let Detail::SetConfig { name, value, local } = facts(text).detail else {
        panic!()
    };
    assert_eq!(name.unwrap().of(text.as_bytes()), b"'app.user'");
    assert_eq!(value.unwrap().of(text.as_bytes()), b"'7'");
    assert_eq!(local, Some(true));
    for text in [
        "select set_config($1, $2, false)",
        "select set_config('a' || 'b', 'c', false)",
        "select set_config('a', 'b', false), set_config('c', 'd', false)",
    ] {
        let found = facts(text);
        assert!(
            matches!(found.detail, Detail::SetConfig { name: None, .. }),
            "{text}"
        );
        assert!(found.effects.contains(Effects::SET_CONFIG));
    }
    assert!(
        facts("insert into t select set_config('x', 'y', false)")
            .effects
            .contains(Effects::SET_CONFIG)
    );
    assert!(
        facts("select set_config('role', 'x', false)")
            .effects
            .contains(Effects::SET_ROLE)
    );
}

#[test]
fn names_of_prepared_statements_can_be_rewritten() {
    let name = |text: &str| {
        let span = match facts(text).detail {
            Detail::Prepare { name, .. } | Detail::Execute { name } => Some(name),
            Detail::Deallocate { name } => name,
            other => panic!("{text}: {other:?}"),
        };
        span.map(|s| String::from_utf8(fold_name(s.of(text.as_bytes())).into_owned()).unwrap())
    };
    for (text, expected) in [
        ("prepare P1 (int, text) as select $1", Some("p1")),
        ("execute \"P1\" (1, 'a')", Some("P1")),
        ("explain (analyze, buffers) execute p1(1)", Some("p1")),
        ("explain analyze verbose execute p1", Some("p1")),
        (
            "create temp table t as execute p1(1) with no data",
            Some("p1"),
        ),
        ("deallocate prepare p1", Some("p1")),
        ("deallocate p1;", Some("p1")),
        ("deallocate prepare", Some("prepare")),
        ("deallocate all", None),
        ("deallocate prepare all", None),
    ] {
        assert_eq!(name(text).as_deref(), expected, "{text}");
    }
    let text = "prepare p as select 1 ; ";
    let Detail::Prepare { body, .. } = facts(text).detail else {
        panic!()
    };
    assert_eq!(body.of(text.as_bytes()), b"select 1");
    assert_eq!(
        facts("execute p(nextval('s'))").reason,
        Reason::SequenceFunction
    );
}

#[test]
fn a_temporary_table_that_ends_with_its_transaction_leaves_nothing() {
    for text in [
        "create temp table t (a int) on commit drop",
        "create temp table if not exists t on commit drop as select 1",
    ] {
        assert!(
            !facts(text).effects.contains(Effects::TEMP_OBJECT),
            "{text}"
        );
    }
}

#[test]
fn session_effects_are_found_wherever_they_stand() {
    for (text, effects) in [
        ("select pg_advisory_lock(1)", Effects::ADVISORY_LOCK),
        (
            "update t set a = 1 where pg_try_advisory_lock_shared(a)",
            Effects::ADVISORY_LOCK,
        ),
        ("select pg_advisory_unlock_all()", Effects::ADVISORY_UNLOCK),
        ("create temp table t (a int)", Effects::TEMP_OBJECT),
        (
            "create or replace temporary view v as select 1",
            Effects::TEMP_OBJECT,
        ),
        (
            "create local temp table t as select 1",
            Effects::TEMP_OBJECT,
        ),
        ("create table pg_temp.t (a int)", Effects::TEMP_OBJECT),
        (
            "create temp table t (a int) on commit delete rows",
            Effects::TEMP_OBJECT,
        ),
        (
            "create temp table t (a int) on commit drop; create temp table u (a int)",
            Effects::TEMP_OBJECT,
        ),
        ("create type pg_temp.e as enum ('a')", Effects::TEMP_OBJECT),
        ("create domain PG_TEMP.d as int", Effects::TEMP_OBJECT),
        (
            "update pg_settings set setting = 'x' where name = 'y'",
            Effects::SETS,
        ),
        (
            "with a as (update only pg_catalog.pg_settings set setting = 1 returning 1) select 1",
            Effects::SETS,
        ),
        (
            "create function pg_temp.f() returns int as 'select 1' language sql",
            Effects::TEMP_OBJECT,
        ),
        ("select 1 into temp t", Effects::TEMP_OBJECT),
        (
            "select 1 into local temporary table t",
            Effects::TEMP_OBJECT,
        ),
        (
            "declare c cursor with hold for select 1",
            Effects::HOLD_CURSOR,
        ),
        ("close c", Effects::CLOSE_CURSOR),
        ("listen x", Effects::LISTEN),
        ("unlisten *", Effects::UNLISTEN),
        ("load 'x'", Effects::LOAD),
        ("discard plans", Effects::DISCARD),
        ("do $$ begin end $$", Effects::OPAQUE),
        ("call p()", Effects::OPAQUE),
        ("select currval('s')", Effects::SEQUENCE_STATE),
        (
            "insert into t values (nextval('s'))",
            Effects::SEQUENCE_USED,
        ),
        ("select setseed(0.5)", Effects::SETSEED),
        ("insert into t select f(1)", Effects::UNKNOWN_FUNCTION),
        ("select 1; set a = 1", Effects::SETS),
        (
            "create table t as select pg_advisory_lock(1)",
            Effects::ADVISORY_LOCK,
        ),
        (
            "prepare p as select pg_advisory_lock(1)",
            Effects::ADVISORY_LOCK,
        ),
        ("drop table t", Effects::DROP),
    ] {
        assert!(
            facts(text).effects.contains(effects),
            "{text}: {:?}",
            facts(text).effects
        );
    }
    for text in [
        "insert into t (a, b) values (1, lower('x')) on conflict (a) do update set b = excluded.b returning a",
        "insert into s.t as x (a) select 1",
        "update t set (a, b) = (1, 2) where c in (3)",
        "merge into t using (select 1) s on t.a = s.a when not matched then insert values (1)",
        "copy t (a, b) from stdin with (format csv, force_null (a))",
        "select pg_advisory_xact_lock(1)",
        "delete from t using u where t.a = u.a returning *",
    ] {
        let mut effects = facts(text).effects;
        if text.starts_with("copy") {
            effects = Effects::NONE;
        }
        assert!(effects.is_empty(), "{text}: {effects:?}");
    }
}

#[test]
fn names_fold_as_in_postgresql() {
    assert_eq!(&*fold_name(b"AbC"), b"abc");
    assert_eq!(&*fold_name(b"\"A\"\"b\""), b"A\"b");
    assert_eq!(fold_name(&[b'a'; 100]).len(), 63);
    assert_eq!(&*fold_literal(b"'it''s'"), b"it's");
    let long = format!("{}é", "a".repeat(62));
    assert_eq!(fold_name(long.as_bytes()).len(), 62);
}

/// A catalogue that knows a few names.
struct Catalogue(NameFilter);

impl Knowledge for Catalogue {
    fn function(&self, schema: Option<&[u8]>, name: &[u8]) -> Known {
        match (schema, name) {
            (_, b"st_area") => Known::Safe,
            (_, b"audit" | b"lower" | b"overlay" | b"substring") => Known::Volatile,
            (None, b"pg_is_in_recovery") => Known::Exempt,
            _ => Known::Nothing,
        }
    }
    fn watched_names(&self) -> Option<&NameFilter> {
        Some(&self.0)
    }
    fn is_unsafe_name(&self, schema: Option<&[u8]>, name: &[u8]) -> bool {
        name == b"v" && schema.is_none_or(|s| s == b"public")
    }
    fn watches_operators(&self) -> bool {
        true
    }
    fn is_unsafe_operator(&self, operator: &[u8]) -> bool {
        [&b"===>"[..], b"<>"].contains(&operator)
    }
}

#[test]
fn a_catalogue_adds_what_it_knows() {
    let env = Env {
        knowledge: &Catalogue(NameFilter::everything()),
        ..Env::default()
    };
    let reason = |text: &str| classify(text.as_bytes(), &env).reason;
    assert_eq!(
        reason("select ST_Area(g), pg_is_in_recovery() from t"),
        Reason::ProvedRead
    );
    assert_eq!(reason("select audit(1)"), Reason::CatalogueFunction);
    assert_eq!(reason("select lower(x) from t"), Reason::CatalogueFunction);
    assert_eq!(reason("select * from v"), Reason::CatalogueObject);
    assert_eq!(
        reason("select * from Public.\"v\""),
        Reason::CatalogueObject
    );
    assert_eq!(reason("select * from other.v"), Reason::ProvedRead);
    assert_eq!(reason("explain select * from v"), Reason::CatalogueObject);
    assert_eq!(reason("select a ===> b from t"), Reason::CatalogueObject);
    assert_eq!(
        reason("select a operator(x.===>) b from t"),
        Reason::CatalogueObject
    );
    assert_eq!(reason("select f(1)"), Reason::UnknownFunction);
    // Without FROM or PLACING it is whatever function has the name.
    for text in ["select substring(1)", "select overlay(a, b)"] {
        assert_eq!(reason(text), Reason::CatalogueFunction, "{text}");
    }
}

/// `scan.l` leaves signs at the end of an operator to what follows, and has one spelling for what is not equal.
#[test]
fn an_operator_is_known_however_it_is_written() {
    let env = Env {
        knowledge: &Catalogue(NameFilter::everything()),
        ..Env::default()
    };
    let reason = |text: &str| classify(text.as_bytes(), &env).reason;
    for text in [
        "select a <> b",
        "select a != b",
        "select a operator(pg_catalog.!=) b",
        "select a<>-1",
        "select a<>+-+1",
        "select a===>-1",
        "select a===>/**/-1",
    ] {
        assert_eq!(reason(text), Reason::CatalogueObject, "{text}");
    }
    // Others, for they hold characters that let a sign stand at the end.
    for text in [
        "select a <>@- b",
        "select a ~===>- b",
        "select a - -1, +-+-+-1",
    ] {
        assert_eq!(reason(text), Reason::ProvedRead, "{text}");
    }
}
