use super::*;
use crate::sql::{Class, Env, classify};

fn function(oid: u32, name: &str, volatile: bool) -> Function {
    let (schema, name) = name.split_once('.').unwrap_or(("public", name));
    Function {
        oid,
        schema: schema.as_bytes().into(),
        name: name.as_bytes().into(),
        volatile,
        call: Call::Name,
        body: Body::Declared,
    }
}

fn sql(oid: u32, name: &str, body: &str) -> Function {
    Function {
        body: Body::Sql(body.as_bytes().into()),
        ..function(oid, name, false)
    }
}

fn survey(functions: impl IntoIterator<Item = Function>) -> Survey {
    let mut survey = Survey::new(15);
    for one in functions {
        survey.function(one);
    }
    survey
}

fn catalogue(survey: &Survey) -> Catalogue {
    Catalogue::new(1, survey, Declared::default())
}

fn known(catalogue: &Catalogue, name: &str) -> Known {
    match name.split_once('.') {
        Some((schema, name)) => catalogue.function(Some(schema.as_bytes()), name.as_bytes()),
        None => catalogue.function(None, name.as_bytes()),
    }
}

fn is_read(catalogue: &Catalogue, text: &str) -> bool {
    let env = Env {
        server_version: 15,
        knowledge: catalogue,
        ..Env::default()
    };
    classify(text.as_bytes(), &env).class == Class::Read
}

#[test]
fn a_name_is_as_bad_as_the_worst_that_it_can_mean() {
    let catalogue = catalogue(&survey([
        function(20_000, "f", false),
        function(20_001, "f", false),
        function(20_002, "g", false),
        function(20_003, "g", true),
        function(20_004, "app.h", false),
        function(20_005, "other.h", true),
    ]));
    for (name, expected) in [
        ("f", Known::Safe),
        ("public.f", Known::Safe),
        ("app.f", Known::Nothing),
        ("F", Known::Nothing),
        ("g", Known::Volatile),
        ("public.g", Known::Volatile),
        ("h", Known::Volatile),
        ("app.h", Known::Safe),
        ("other.h", Known::Volatile),
        ("public.h", Known::Nothing),
        ("", Known::Nothing),
    ] {
        assert_eq!(known(&catalogue, name), expected, "{name}");
    }
}

#[test]
fn what_is_declared_in_the_configuration_goes_before() {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let read_only = own(&[
        "uuid",
        "app.tick",
        "pg_catalog.pg_try_advisory_lock",
        "nextval",
        "app.lower",
    ]);
    let write = own(&["dblink", "app.uuid", "pg_catalog.upper"]);
    let mut survey = survey([
        function(20_000, "uuid", true),
        function(20_001, "app.uuid", false),
        function(20_002, "app.tick", true),
        function(20_003, "other.tick", false),
        function(20_004, "dblink", false),
        sql(20_005, "exempted", "SELECT public.uuid()"),
        sql(20_006, "condemned", "SELECT dblink()"),
        function(1574, "pg_catalog.nextval", true),
    ]);
    survey.relation(30_000, b"public", b"numbered");
    survey.reaches(Object::Relation(30_000), Object::Function(1574));
    let declared = Declared {
        read_only: &read_only,
        write: &write,
    };
    let catalogue = Catalogue::new(1, &survey, declared);
    for (name, expected) in [
        ("public.uuid", Known::Exempt),
        ("anywhere.uuid", Known::Exempt),
        ("app.uuid", Known::Volatile),
        ("uuid", Known::Volatile),
        ("app.tick", Known::Exempt),
        // Not exempt: it could be another schema's, or a built-in one.
        ("tick", Known::Safe),
        ("lower", Known::Safe),
        ("app.lower", Known::Exempt),
        ("dblink", Known::Volatile),
        ("exempted", Known::Safe),
        ("condemned", Known::Volatile),
        ("pg_try_advisory_lock", Known::Exempt),
        ("nextval", Known::Exempt),
        ("upper", Known::Volatile),
    ] {
        assert_eq!(known(&catalogue, name), expected, "{name}");
    }
    assert!(is_read(
        &catalogue,
        "SELECT pg_try_advisory_lock(1) FROM numbered"
    ));
    assert!(!is_read(&catalogue, "SELECT pg_advisory_lock(1)"));
    assert!(!is_read(&catalogue, "SELECT upper('a')"));
}

#[test]
fn built_in_functions_that_were_altered_are_known() {
    let pg = |name| format!("pg_catalog.{name}");
    let mut survey = survey([
        // As they are: volatile or stable, and none of them news to the classifier.
        function(1598, &pg("random"), true),
        function(1299, &pg("now"), false),
        function(2077, &pg("current_setting"), false),
        function(870, &pg("lower"), true),
        function(871, &pg("upper"), false),
    ]);
    survey.reaches(Object::Function(871), Object::Refused);
    let catalogue = catalogue(&survey);
    for name in ["random", "now", "current_setting", "nextval"] {
        assert_eq!(known(&catalogue, name), Known::Nothing, "{name}");
    }
    assert_eq!(known(&catalogue, "lower"), Known::Volatile);
    assert_eq!(known(&catalogue, "upper"), Known::Volatile);
    assert!(is_read(&catalogue, "SELECT random(), now()"));
}

/// A chain of bodies, each of which only calls the next, is followed to its end, or not believed.
#[test]
fn chains_of_calls_are_followed_and_very_long_ones_are_not_believed() {
    let chain = |len: u32, end: bool| {
        let links = (0..len).map(|i| {
            sql(
                20_000 + i,
                &format!("f{i}"),
                &format!("SELECT f{}()", i + 1),
            )
        });
        let last = function(20_000 + len, &format!("f{len}"), end);
        catalogue(&survey(links.chain([last])))
    };
    assert_eq!(known(&chain(20, true), "f0"), Known::Volatile);
    assert_eq!(known(&chain(20, false), "f0"), Known::Safe);
    assert_eq!(known(&chain(200, true), "f0"), Known::Volatile);
    assert_eq!(known(&chain(200, false), "f0"), Known::Safe);
}

#[test]
fn bodies_are_read_only_when_proved_or_without_a_bad_word() {
    let procedural = |oid, name, body: &str| Function {
        body: Body::Procedural(body.as_bytes().into()),
        ..function(oid, name, false)
    };
    let mut survey = survey([
        function(20_000, "bad", true),
        sql(20_001, "empty", ""),
        sql(20_002, "insert", "INSERT INTO t VALUES (1)"),
        sql(20_003, "unknown", "SELECT nowhere()"),
        sql(20_004, "unterminated", "SELECT '"),
        procedural(20_010, "p_good", "BEGIN RETURN nowhere(bad); END"),
        procedural(20_011, "p_bad", "BEGIN PERFORM Public.\"bad\" (1); END"),
        procedural(20_012, "p_other", "BEGIN PERFORM other.bad(1); END"),
        procedural(
            20_013,
            "p_lock",
            "BEGIN IF pg_try_advisory_lock(1) THEN END IF; END",
        ),
        procedural(20_014, "p_escaped", "BEGIN PERFORM U&\"b\\0061d\"(1); END"),
        procedural(20_015, "p_string", "BEGIN EXECUTE 'SELECT bad()'; END"),
        procedural(20_016, "p_cut", "BEGIN $x$"),
        procedural(20_017, "p_view", "BEGIN RETURN (SELECT 1 FROM v); END"),
        Function {
            body: Body::Unseen,
            ..function(20_018, "unseen", false)
        },
    ]);
    survey.relation(30_000, b"public", b"v");
    survey.reaches(Object::Relation(30_000), Object::Function(20_000));
    let catalogue = catalogue(&survey);
    for name in ["empty", "p_good", "p_other", "p_string"] {
        assert_eq!(known(&catalogue, name), Known::Safe, "{name}");
    }
    for name in [
        "insert",
        "unknown",
        "unterminated",
        "p_bad",
        "p_lock",
        "p_escaped",
        "p_cut",
        "p_view",
        "unseen",
    ] {
        assert_eq!(known(&catalogue, name), Known::Volatile, "{name}");
    }
}

#[test]
fn what_can_be_reached_by_no_name_is_told_by_no_name() {
    let survey = survey([
        Function {
            call: Call::Never,
            ..function(20_000, "internal_only", true)
        },
        Function {
            call: Call::Attribute,
            ..function(20_001, "audited", true)
        },
    ]);
    let catalogue = catalogue(&survey);
    assert_eq!(known(&catalogue, "internal_only"), Known::Nothing);
    assert!(!is_read(&catalogue, "SELECT x.audited FROM t x"));
    assert!(is_read(&catalogue, "SELECT x.internal_only FROM t x"));
}

#[test]
fn an_empty_catalogue_watches_nothing() {
    let catalogue = catalogue(&survey([function(20_000, "f", false)]));
    assert!(catalogue.watched_names().is_none() && !catalogue.watches_operators());
    assert_eq!((catalogue.generation(), catalogue.counts()), (1, [1, 0, 0]));
}

#[test]
fn operators_are_watched_for_by_their_spelling_or_by_their_type() {
    let operator = |oid, name: &str, builtin_spelling, operands| Operator {
        oid,
        name: name.as_bytes().into(),
        builtin_spelling,
        function: 20_000,
        operands,
    };
    let mut survey = survey([
        function(20_000, "bad", true),
        function(20_001, "good", false),
    ]);
    survey.operator(operator(1, "===", false, [40_000, 40_000]));
    survey.operator(operator(2, "=", true, [40_000, 25]));
    survey.operator(operator(3, "<", true, [25, 23]));
    survey.operator(Operator {
        function: 20_001,
        ..operator(4, "@@@", false, [25, 25])
    });
    survey.type_name(40_000, b"public", b"amount");
    survey.relation(30_000, b"public", b"bills");
    survey.reaches(Object::Relation(30_000), Object::Type(40_000));
    let catalogue = catalogue(&survey);
    let spellings: Vec<_> = catalogue.unsafe_operators().collect();
    assert_eq!(spellings, [&b"<"[..], b"==="]);
    for (text, read) in [
        ("SELECT a === b FROM t", false),
        ("SELECT a < b FROM t", false),
        ("SELECT a @@@ b FROM t", true),
        ("SELECT a = b FROM t", true),
        ("SELECT a = b FROM bills", false),
        ("SELECT a::amount FROM t", false),
    ] {
        assert_eq!(is_read(&catalogue, text), read, "{text}");
    }
}

#[test]
fn a_survey_that_was_cut_or_a_cast_that_shows_nowhere_leaves_nothing_to_believe() {
    let mut cut = survey([function(20_000, "f", false), function(20_001, "bad", true)]);
    cut.cut();
    let cut = catalogue(&cut);
    assert_eq!(cut.distrust(), Some(&Distrust::Cut));
    assert_eq!(known(&cut, "f"), Known::Nothing);
    assert_eq!(known(&cut, "bad"), Known::Volatile);
    assert!(!is_read(&cut, "SELECT id FROM goods") && !is_read(&cut, "SELECT 1 + 1"));

    let cast = |function| Cast {
        function,
        source: 23,
        target: 25,
        explicit: false,
    };
    let mut survey = survey([function(20_000, "f", false), function(20_001, "bad", true)]);
    survey.cast(cast(20_000));
    assert_eq!(catalogue(&survey).distrust(), None);
    survey.cast(cast(20_001));
    let distrusted = catalogue(&survey);
    let why = distrusted.distrust().unwrap().to_string();
    assert!(why.contains("\"public.bad\""), "{why}");
    assert!(!is_read(&distrusted, "SELECT id FROM goods"));
}

#[test]
fn names_beyond_ascii_are_compared_only_where_they_can_be() {
    let with = |utf8: bool| {
        let mut survey = survey([function(20_000, "größe", false)]);
        survey.relation(30_000, b"public", "größen_id_seq".as_bytes());
        survey.reaches(Object::Relation(30_000), Object::Refused);
        if !utf8 {
            survey.other_encoding();
        }
        catalogue(&survey)
    };
    let (utf8, other) = (with(true), with(false));
    assert!(utf8.has_names_beyond_ascii());
    assert_eq!(known(&utf8, "größe"), Known::Safe);
    assert_eq!(known(&other, "größe"), Known::Nothing);
    let seq = "größen_id_seq".as_bytes();
    let latin1 = b"gr\xf6\xdfen_id_seq";
    let harmless = "größen".as_bytes();
    assert!(utf8.is_unsafe_name(None, seq) && !utf8.is_unsafe_name(None, harmless));
    assert!(
        utf8.is_unsafe_name(None, latin1),
        "it may be the same name in another encoding"
    );
    assert!(
        other.is_unsafe_name(None, harmless),
        "it may be folded to anything"
    );
    assert!(!utf8.is_unsafe_name(None, b"goods") && !other.is_unsafe_name(None, b"goods"));
    assert!(utf8.watched_names().unwrap().may_hold(latin1));
}

#[test]
fn a_digest_is_the_same_in_any_order_and_another_after_a_change() {
    let (f, g) = (function(20_000, "f", false), function(20_001, "g", false));
    let one = survey([f.clone(), g.clone()]).digest();
    assert_eq!(survey([g.clone(), f.clone()]).digest(), one);
    assert_ne!(
        survey([
            f,
            Function {
                volatile: true,
                ..g
            }
        ])
        .digest(),
        one
    );
}
