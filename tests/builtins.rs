//! The table of built-in functions against the catalogue of a real server: what PostgreSQL calls volatile, or what is
//! known to misbehave on a standby, is never taken for safe.
#![expect(clippy::unwrap_used, reason = "a test panics")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use pgweir::sql::{Class, Env, classify, safe_functions};

/// Volatile by the catalogue, yet harmless: they read what every server has, or answer anew each time.
const HARMLESS: &[&str] = &[
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_database_size",
    "pg_indexes_size",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "random",
    "random_normal",
    "timeofday",
    // One of its variants, in version 14 only.
    "timezone",
    "uuidv4",
    "uuidv7",
];

/// Syntax that older servers look up as functions: the catalogue does not have them.
const SYNTAX: &[&str] = &[
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
];

/// Must not run on a replica, whatever the catalogue calls them: they are refused there, take locks that bind nobody
/// else, act on the server, run SQL from a string, or answer for one server only.
const DENIED: &[&str] = &[
    "currval",
    "inet_server_addr",
    "inet_server_port",
    "lastval",
    "lo_create",
    "lo_export",
    "lo_get",
    "lo_import",
    "lo_open",
    "lo_put",
    "lo_unlink",
    "loread",
    "lowrite",
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_unlock",
    "pg_advisory_xact_lock",
    "pg_backend_pid",
    "pg_cancel_backend",
    "pg_create_physical_replication_slot",
    "pg_current_snapshot",
    "pg_current_wal_insert_lsn",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_export_snapshot",
    "pg_is_in_recovery",
    "pg_last_wal_replay_lsn",
    "pg_lock_status",
    "pg_logical_emit_message",
    "pg_my_temp_schema",
    "pg_notify",
    "pg_postmaster_start_time",
    "pg_promote",
    "pg_read_file",
    "pg_reload_conf",
    "pg_stat_get_activity",
    "pg_stat_get_live_tuples",
    "pg_stat_reset",
    "pg_switch_wal",
    "pg_terminate_backend",
    "pg_try_advisory_lock",
    "pg_try_advisory_xact_lock_shared",
    "query_to_xml",
    "set_config",
    "setseed",
    "setval",
    "table_to_xml",
    "ts_rewrite",
    "ts_stat",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
];

/// Name → volatilities of its variants, and the server's major version.
fn catalogue() -> (BTreeMap<String, String>, u16) {
    let primary = support::postgres().primary();
    let rows = primary
        .psql(
            "SELECT proname, string_agg(DISTINCT provolatile::text, '') FROM pg_proc \
             WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY 1",
        )
        .unwrap();
    let functions = rows
        .lines()
        .map(|row| row.split_once('|').unwrap())
        .map(|(name, volatility)| (name.to_owned(), volatility.to_owned()))
        .collect();
    let version = primary.psql("SHOW server_version_num").unwrap();
    (
        functions,
        version
            .parse::<u32>()
            .unwrap()
            .div_euclid(10_000)
            .try_into()
            .unwrap(),
    )
}

#[test]
fn safe_functions_are_built_in_and_not_volatile() {
    let (functions, version) = catalogue();
    assert!(functions.len() > 2000 && version >= 14);
    let mut wrong = Vec::new();
    for name in safe_functions(version) {
        match functions.get(name) {
            None if SYNTAX.contains(&name) => {}
            None => wrong.push(format!("{name} is not built into version {version}")),
            Some(volatility) if volatility.contains('v') && !HARMLESS.contains(&name) => {
                wrong.push(format!("{name} is volatile"));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_call_of_anything_else_is_a_read() {
    let (functions, version) = catalogue();
    let env = Env {
        server_version: version,
        ..Env::default()
    };
    let safe: BTreeSet<_> = safe_functions(version).collect();
    let listed = DENIED.iter().copied();
    for name in functions.keys().map(String::as_str).chain(listed) {
        // The one built-in function that is safe by its argument.
        let may_be_read =
            safe.contains(name) && !DENIED.contains(&name) && name != "current_setting";
        for text in [
            format!("SELECT pg_catalog.\"{name}\"($1)"),
            format!("SELECT * FROM \"{name}\"($1)"),
        ] {
            let class = classify(text.as_bytes(), &env).class;
            assert_eq!(class == Class::Read, may_be_read, "{text}: {class:?}");
        }
    }
}
