use std::sync::Arc;

use super::*;
use crate::{
    protocol::encode,
    session::{Interners, Mode, Outbox, Settings},
    sql::{Builtins, Knowledge, Known},
};

fn session() -> Session {
    let settings = Arc::<Settings>::default();
    Session::new(1, Mode::Transaction, Arc::<Interners>::default(), settings)
}

fn with_setting(name: &[u8], value: &[u8]) -> Session {
    let mut session = session();
    session.insert_setting(name, value);
    session
}

fn query(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::query(&mut out, text.as_bytes());
    out
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::parse(&mut out, name.as_bytes(), text.as_bytes(), &[0, 0]);
    out
}

fn bind(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::bind_head(&mut out, b"", name.as_bytes(), 6);
    out.extend_from_slice(&[0; 6]);
    out
}

fn sync() -> Vec<u8> {
    let mut out = Vec::new();
    encode::sync(&mut out);
    out
}

/// A batch of texts, each parsed without a name and bound.
fn batch(texts: &[&str]) -> Vec<u8> {
    let mut out: Vec<u8> = texts
        .iter()
        .flat_map(|text| [parse("", text), bind("")].concat())
        .collect();
    out.extend(sync());
    out
}

/// Has the session take `data`, as if a server had been given to it.
fn take(session: &mut Session, data: &[u8]) {
    let mut server = ServerState::new(b"u", Arc::default(), 100);
    let (mut composed, mut to_client) = (Vec::new(), Vec::new());
    let mut out = Outbox::new(data, &mut composed);
    let taken = session.on_client_bytes(data, u32::MAX, &mut server, &mut out, &mut to_client);
    assert_eq!(taken.unwrap().consumed, data.len());
}

#[test]
fn a_query_is_what_its_statement_is() {
    for (text, kind, reason) in [
        ("SELECT 1", Kind::Read, "proved_read"),
        ("", Kind::Read, "no_statement"),
        ("SET work_mem = '1MB'", Kind::Read, "setting"),
        ("INSERT INTO t VALUES (1)", Kind::Write, "data_modifying"),
        ("SELECT 1; DELETE FROM t", Kind::Write, "data_modifying"),
        ("BEGIN", Kind::Control, "transaction_control"),
        (
            "BEGIN READ ONLY",
            Kind::ReadOnlyTransaction,
            "transaction_control",
        ),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
            Kind::Control,
            "transaction_control",
        ),
        ("COMMIT", Kind::Control, "transaction_control"),
        ("COMMIT PREPARED 'x'", Kind::Write, "transaction_control"),
        ("LISTEN c", Kind::Control, "session_statement"),
        ("FETCH c", Kind::Write, "session_statement"),
        ("EXECUTE nobody", Kind::Write, "prepared_statement"),
    ] {
        let data = query(text);
        let unit = session().unit(&data);
        let told = unit.reason.map(Reason::code);
        assert_eq!((unit.kind, told), (kind, Some(reason)), "{text}");
        assert_eq!(unit.size, Some(data.len()), "{text}");
    }
}

#[test]
fn a_batch_is_as_much_as_the_most_of_its_statements() {
    for (texts, kind) in [
        (&["SELECT 1", "SELECT 2"][..], Kind::Read),
        (&["SELECT 1", "INSERT INTO t VALUES (1)"], Kind::Write),
        (&["INSERT INTO t VALUES (1)", "SELECT 1"], Kind::Write),
        (&["BEGIN", "SELECT 1"], Kind::Control),
        (&["BEGIN READ ONLY", "SELECT 1"], Kind::ReadOnlyTransaction),
        (
            &["BEGIN READ ONLY", "SELECT 1", "COMMIT"],
            Kind::ReadOnlyTransaction,
        ),
        (
            &["BEGIN READ ONLY", "SET TRANSACTION READ WRITE"],
            Kind::Control,
        ),
        (&["BEGIN READ ONLY", "COMMIT", "BEGIN"], Kind::Control),
        (&["BEGIN READ ONLY", "COMMIT", "DELETE FROM t"], Kind::Write),
        (&["SELECT 1", "BEGIN READ ONLY"], Kind::ReadOnlyTransaction),
    ] {
        assert_eq!(session().unit(&batch(texts)).kind, kind, "{texts:?}");
    }
}

#[test]
fn what_is_not_seen_whole_may_do_anything() {
    let half = &query("SELECT 1")[..8];
    let without_end = [parse("", "SELECT 1"), bind("")].concat();
    let mut flushed = without_end.clone();
    encode::flush(&mut flushed);
    let long = query(&format!("SELECT '{}'", "x".repeat(HOLD_LIMIT)));
    let query_in_batch = [parse("", "SELECT 1"), query("SELECT 1")].concat();
    let mut call = vec![FrontendTag::FunctionCall.byte()];
    call.extend_from_slice(&4u32.to_be_bytes());
    for data in [half, &without_end, &flushed, &long, &query_in_batch, &call] {
        let unit = session().unit(data);
        assert_eq!(
            (unit.kind, unit.reason, unit.size),
            (Kind::Write, None, None)
        );
    }
}

#[test]
fn a_unit_with_something_behind_it_does_not_stand_alone() {
    let data = [query("SELECT 1"), query("DELETE FROM t")].concat();
    let unit = session().unit(&data);
    assert_eq!((unit.kind, unit.size), (Kind::Read, None));
}

#[test]
fn a_prepared_statement_is_what_its_text_is() {
    let mut session = session();
    let prepared = [
        parse("read", "SELECT $1::int"),
        parse("write", "DELETE FROM t"),
        sync(),
    ];
    take(&mut session, &prepared.concat());
    let kind = |session: &Session, name| session.unit(&[bind(name), sync()].concat()).kind;
    for _ in 0..2 {
        assert_eq!(kind(&session, "read"), Kind::Read);
        assert_eq!(kind(&session, "write"), Kind::Write);
    }
    assert_eq!(session.unit(&query("EXECUTE read")).kind, Kind::Read);
    assert_eq!(session.unit(&query("EXECUTE write")).kind, Kind::Write);
}

#[test]
fn the_unnamed_statement_of_an_earlier_batch_counts() {
    let mut session = session();
    take(&mut session, &[parse("", "DELETE FROM t"), sync()].concat());
    assert_eq!(session.unit(&[bind(""), sync()].concat()).kind, Kind::Write);
    let other = [parse("a", "SELECT 1"), bind(""), sync()].concat();
    assert_eq!(session.unit(&other).kind, Kind::Write);
    let own = [parse("", "SELECT 1"), bind(""), sync()].concat();
    assert_eq!(session.unit(&own).kind, Kind::Read);
}

#[test]
fn an_sql_prepare_is_what_it_prepares() {
    let mut session = session();
    take(
        &mut session,
        &query("PREPARE p (int) AS DELETE FROM t WHERE a = $1"),
    );
    assert_eq!(session.unit(&query("EXECUTE p (1)")).kind, Kind::Write);
    let mut session = self::session();
    take(&mut session, &query("PREPARE p AS SELECT 1"));
    assert_eq!(session.unit(&query("EXECUTE p")).kind, Kind::Read);
}

/// Knows one function, or nothing of it.
struct OneFunction(Known);

impl Knowledge for OneFunction {
    fn function(&self, _schema: Option<&[u8]>, name: &[u8]) -> Known {
        if name == b"f" { self.0 } else { Known::Nothing }
    }
}

#[test]
fn a_prepared_statement_is_looked_at_again_in_another_world() {
    let mut session = session();
    take(&mut session, &[parse("a", "SELECT f()"), sync()].concat());
    let mut enter = |number, known| {
        session.set_world(Arc::new(crate::session::World {
            number,
            knowledge: Arc::new(OneFunction(known)),
        }));
        session.unit(&[bind("a"), sync()].concat()).kind
    };
    assert_eq!(enter(1, Known::Nothing), Kind::Write);
    assert_eq!(enter(2, Known::Safe), Kind::Read);
    assert_eq!(enter(3, Known::Volatile), Kind::Write);
}

#[test]
fn what_a_replica_has_refused_is_no_read_any_more() {
    let mut session = session();
    let text = "SELECT * FROM a_view_that_writes";
    take(&mut session, &[parse("a", text), sync()].concat());
    let bound = [bind("a"), sync()].concat();
    assert_eq!(session.unit(&bound).kind, Kind::Read);
    session.learn_refusal(&bound);
    assert_eq!(session.unit(&bound).reason, Some(Reason::RefusedByReplica));
    assert_eq!(session.unit(&query(text)).kind, Kind::Write);
    let long = format!("{text} WHERE a = '{}'", "x".repeat(200));
    assert_eq!(session.unit(&query(&long)).kind, Kind::Read);
    session.learn_refusal(&query(&long));
    assert_eq!(session.unit(&query(&long)).kind, Kind::Write);
    session.set_world(Arc::new(crate::session::World {
        number: 7,
        knowledge: Arc::new(Builtins),
    }));
    assert_eq!(
        session.unit(&query(&long)).kind,
        Kind::Read,
        "the catalogue is new"
    );
}

#[test]
fn settings_of_the_session_decide_too() {
    let session = with_setting(b"default_transaction_read_only", b"on");
    assert_eq!(
        session.unit(&query("BEGIN")).kind,
        Kind::ReadOnlyTransaction
    );
    assert_eq!(session.unit(&query("BEGIN READ WRITE")).kind, Kind::Control);
}

#[test]
fn what_may_make_a_session_serializable_is_said_to_the_primary() {
    for (text, kind) in [
        (
            "SET default_transaction_isolation = 'serializable'",
            Kind::Control,
        ),
        (
            "SET SESSION \"default_transaction_isolation\" TO DEFAULT",
            Kind::Control,
        ),
        (
            "SET work_mem = '1MB'; SET Default_Transaction_Isolation = serializable",
            Kind::Control,
        ),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE, ISOLATION LEVEL SERIALIZABLE",
            Kind::Control,
        ),
        ("RESET default_transaction_isolation", Kind::Control),
        ("RESET ALL", Kind::Read),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            Kind::Read,
        ),
        ("SET default_transaction_deferrable = on", Kind::Read),
        ("RESET work_mem", Kind::Read),
    ] {
        assert_eq!(session().unit(&query(text)).kind, kind, "{text}");
    }
}

#[test]
fn a_serializable_session_needs_the_primary_and_no_other_does() {
    let mut serializable = with_setting(b"default_transaction_isolation", b"SERIALIZABLE");
    for text in ["SELECT 1", "BEGIN READ ONLY", "SET work_mem = '1MB'"] {
        let unit = serializable.unit(&query(text));
        assert_eq!(unit.kind, Kind::Control, "{text}");
        assert_eq!(unit.reason, Some(Reason::Setting), "{text}");
    }
    // A statement that both have, and that either of them may be the first to use.
    let mut other = session();
    let prepares = [parse("a", "SELECT 1"), sync()].concat();
    take(&mut serializable, &prepares);
    take(&mut other, &prepares);
    let uses = [bind("a"), sync()].concat();
    for _ in 0..2 {
        assert_eq!(serializable.unit(&uses).kind, Kind::Control);
        assert_eq!(other.unit(&uses).kind, Kind::Read);
    }
}

#[test]
fn wishes_and_the_token_are_found() {
    let unit = session().unit(&query("/* pgweir: route=primary, key=u1 */ SELECT 1"));
    let hints = unit.hints.unwrap();
    assert_eq!(hints.route.as_deref(), Some(&b"primary"[..]));
    assert_eq!(hints.key.as_deref(), Some(&b"u1"[..]));
    assert!(session().unit(&query("SHOW pgweir.token")).shows_token);
    assert!(!session().unit(&query("SHOW work_mem")).shows_token);
    let mut session = session();
    take(
        &mut session,
        &[parse("a", "SHOW pgweir.token"), sync()].concat(),
    );
    for _ in 0..2 {
        assert!(session.unit(&[bind("a"), sync()].concat()).shows_token);
    }
}

#[test]
fn only_what_may_write_is_remembered_as_a_write() {
    for (text, writes) in [
        ("SELECT 1", false),
        ("BEGIN", false),
        ("COMMIT", false),
        ("PREPARE p AS DELETE FROM t", false),
        ("INSERT INTO t VALUES (1)", true),
        ("SELECT nextval('s')", true),
    ] {
        let mut session = session();
        session.set_place(Place::Primary);
        take(&mut session, &query(text));
        assert_eq!(session.has_written(), writes, "{text}");
    }
    let mut session = session();
    session.set_place(Place::Primary);
    take(&mut session, &query("PREPARE p AS DELETE FROM t"));
    assert!(!session.has_written());
    take(&mut session, &query("EXECUTE p"));
    assert!(session.has_written());
}

#[test]
fn what_is_bound_and_cannot_be_looked_up_may_be_a_write() {
    let streamed = format!("SELECT {}", "1 + ".repeat(HOLD_LIMIT));
    for (first, name) in [
        (parse("", &streamed), ""),
        (query("PREPARE p AS DELETE FROM t; SELECT 1"), "p"),
    ] {
        let mut session = session();
        session.set_place(Place::Primary);
        take(&mut session, &first);
        session.forget_writes();
        take(&mut session, &[bind(name), sync()].concat());
        assert!(session.has_written(), "{name:?}");
    }
}

#[test]
fn only_reads_follow_what_a_replica_has_not_answered() {
    let mut session = session();
    session.set_place(Place::Replica);
    let mut server = ServerState::new(b"u", Arc::default(), 100);
    let (mut composed, mut to_client) = (Vec::new(), Vec::new());
    let data = [query("SELECT 1"), query("SELECT 2"), query("DELETE FROM t")].concat();
    let mut out = Outbox::new(&data, &mut composed);
    let taken = session.on_client_bytes(&data, u32::MAX, &mut server, &mut out, &mut to_client);
    let consumed = taken.unwrap().consumed;
    assert_eq!(&data[consumed..], query("DELETE FROM t"));
    assert!(session.is_stalled() && !session.can_resume(Some(&server)));
}

/// What a unit wishes for itself, or asks for, is not seen by the decision for the one before.
#[test]
fn only_what_the_decision_was_for_follows() {
    let wishes = "/* pgweir: primary */ SELECT 2";
    let token = "SHOW pgweir.token";
    for (place, second, follows) in [
        (Place::Replica, "SELECT 2", true),
        (Place::Replica, wishes, false),
        (Place::Replica, token, false),
        (Place::ReplicaForOne, "SELECT 2", false),
        (Place::Primary, "DELETE FROM t", true),
        (Place::Primary, wishes, true),
        (Place::Primary, token, false),
        (Place::Only, token, true),
    ] {
        let mut session = session();
        session.set_place(place);
        let mut server = ServerState::new(b"u", Arc::default(), 100);
        let (mut composed, mut to_client) = (Vec::new(), Vec::new());
        let data = [query("SELECT 1"), query(second)].concat();
        let mut out = Outbox::new(&data, &mut composed);
        let taken = session.on_client_bytes(&data, u32::MAX, &mut server, &mut out, &mut to_client);
        let is_whole = taken.unwrap().consumed == data.len();
        assert_eq!(is_whole, follows, "{place:?}: {second}");
        assert_eq!(session.is_stalled(), !follows, "{place:?}: {second}");
        assert!(!session.can_resume(Some(&server)));
    }
}

#[test]
fn what_stands_behind_a_wish_is_not_decided_without_it() {
    for (texts, kind) in [
        (&["SET pgweir.token = 'x'"][..], Kind::Read),
        (&["SELECT 1", "SET pgweir.token = 'x'"], Kind::Read),
        (&["SET work_mem = '1MB'", "SELECT 1"], Kind::Read),
        (&["SET pgweir.token = 'x'", "SELECT 1"], Kind::Control),
        (&["RESET pgweir.route", "SELECT 1"], Kind::Control),
        (&["RESET ALL", "SELECT 1"], Kind::Control),
        (&["SET pgweir.token = 'x'", "DELETE FROM t"], Kind::Write),
    ] {
        assert_eq!(session().unit(&batch(texts)).kind, kind, "{texts:?}");
    }
}

/// Or a read-only transaction would be held back, its server be given back without it, and the choice
/// begin anew.
#[test]
fn any_unit_follows_the_settings_that_its_server_is_given() {
    let mut session = with_setting(b"work_mem", b"1MB");
    session.set_place(Place::Replica);
    let mut server = ServerState::new(b"u", Arc::default(), 100);
    let (mut composed, mut to_client) = (Vec::new(), Vec::new());
    let data = [query("BEGIN READ ONLY"), query("DELETE FROM t")].concat();
    let mut out = Outbox::new(&data, &mut composed);
    session.attach(&mut server, &mut out);
    assert!(!server.pipeline.is_empty(), "it is given settings");
    let taken = session.on_client_bytes(&data, u32::MAX, &mut server, &mut out, &mut to_client);
    let consumed = taken.unwrap().consumed;
    assert_eq!(&data[consumed..], query("DELETE FROM t"));
}
