//! Shapes, held to PgBouncer 1.25.2, and rows of a process without servers.

use super::{
    super::{
        table::{self, Formats, Kind, header},
        test_console::{TestConsole, on_a_worker},
    },
    *,
};
use std::sync::atomic::Ordering::Relaxed;

use crate::{
    pool::ClientState,
    route::{Decision, HostState, Lsn, Reason},
    session::Pins,
};

/// Column and type of each view as the wire has them: `s` text, `i` int4, `q` int8, `N` numeric.
const SHAPES: &[(&str, &str)] = &[
    ("version", "version:s"),
    ("state", "key:s value:s"),
    ("config", "key:s value:s default:s changeable:s"),
    (
        "databases",
        "name:s host:s port:i database:s force_user:s pool_size:i min_pool_size:i \
         reserve_pool_size:i server_lifetime:i pool_mode:s load_balance_hosts:s max_connections:i \
         current_connections:i max_client_connections:i current_client_connections:i paused:i \
         disabled:i",
    ),
    (
        "pools",
        "database:s user:s cl_active:i cl_waiting:i cl_active_cancel_req:i \
         cl_waiting_cancel_req:i sv_active:i sv_active_cancel:i sv_being_canceled:i sv_idle:i \
         sv_used:i sv_tested:i sv_login:i maxwait:i maxwait_us:i pool_mode:s load_balance_hosts:s",
    ),
    (
        "peer_pools",
        "peer_id:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active_cancel:i sv_login:i",
    ),
    ("peers", "peer_id:i host:s port:i pool_size:i"),
    ("clients", SOCKET),
    ("servers", SOCKET),
    (
        "users",
        "name:s pool_size:s reserve_pool_size:s pool_mode:s max_user_connections:i \
         current_connections:i max_user_client_connections:i current_client_connections:i",
    ),
    ("lists", "list:s items:i"),
    (
        "stats",
        "database:s total_server_assignment_count:N total_xact_count:N total_query_count:N \
         total_received:N total_sent:N total_xact_time:N total_query_time:N total_wait_time:N \
         total_client_parse_count:N total_server_parse_count:N total_bind_count:N \
         avg_server_assignment_count:N avg_xact_count:N avg_query_count:N avg_recv:N avg_sent:N \
         avg_xact_time:N avg_query_time:N avg_wait_time:N avg_client_parse_count:N \
         avg_server_parse_count:N avg_bind_count:N",
    ),
    (
        "stats_totals",
        "database:s server_assignment_count:N xact_count:N query_count:N bytes_received:N \
         bytes_sent:N xact_time:N query_time:N wait_time:N client_parse_count:N \
         server_parse_count:N bind_count:N",
    ),
    (
        "stats_averages",
        "database:s server_assignment_count:N xact_count:N query_count:N bytes_received:N \
         bytes_sent:N xact_time:N query_time:N wait_time:N avg_client_parse_count:N \
         avg_server_parse_count:N avg_bind_count:N",
    ),
    ("totals", "name:s value:N"),
    ("mem", "name:s size:i used:i free:i memtotal:i"),
    ("dns_hosts", "hostname:s ttl:q addrs:s"),
    ("dns_zones", "zonename:s serial:q count:i"),
    ("client_encoding", "client_encoding:s"),
    (
        "default_transaction_isolation",
        "default_transaction_isolation:s",
    ),
    (
        "standard_conforming_strings",
        "standard_conforming_strings:s",
    ),
    ("datestyle", "datestyle:s"),
    ("timezone", "timezone:s"),
    // Ours.
    (
        "pins",
        "client_id:i user:s database:s pin:s since:s for_ms:q reasons:s",
    ),
    ("routes", "database:s target:s reason:s count:q"),
    (
        "replicas",
        "database:s host:s role:s state:s lag_bytes:q lag_us:q lsn:s timeline:q active:i served:q \
         reads:q reads_percent:i latency_us:q weight:q share_percent:i zone:s incarnation:q",
    ),
];

const SOCKET: &str = "type:s user:s database:s replication:s state:s addr:s port:i local_addr:s \
     local_port:i connect_time:s request_time:s wait:i wait_us:i close_needed:i ptr:s link:s \
     remote_pid:i tls:s application_name:s prepared_statements:i id:i";

const BUFFERS: &str = " recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i pkt_avail:i \
     send_avail:i";

fn shape(view: &View) -> String {
    let column = |column: &Column| {
        let letter = match column.kind {
            Kind::Text => "s",
            Kind::Int4 => "i",
            Kind::Int8 => "q",
            Kind::Numeric => "N",
        };
        format!("{}:{letter}", column.name)
    };
    let columns: Vec<_> = view.columns.iter().map(column).collect();
    columns.join(" ")
}

#[test]
fn every_view_has_exactly_the_columns_of_pgbouncer() {
    let mut seen = 0;
    let sockets = SOCKET.to_owned() + BUFFERS;
    let wider = [("sockets", &*sockets), ("active_sockets", &*sockets)];
    for (name, columns) in SHAPES.iter().chain(&wider) {
        let view = view(name).unwrap_or_else(|| panic!("no view {name}"));
        assert_eq!(shape(view), *columns, "{name}");
        seen += 1;
    }
    assert_eq!(seen, VIEWS.len(), "a view without a shape in this test");
}

#[test]
fn columns_are_described_as_pgbouncer_describes_them() {
    let mut out = Vec::new();
    header(&mut out, &[s("a"), i("b"), q("c"), n("d")], &Formats::TEXT);
    // Table OID 0, attribute 0, type and its size, modifier -1, format 0.
    let expected = b"T\0\0\0\x56\0\x04\
        a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0\
        b\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0\
        c\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\0\
        d\0\0\0\0\0\0\0\0\0\x06\xa4\xff\xff\xff\xff\xff\xff\0\0";
    assert_eq!(
        out.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
}

#[test]
fn values_have_the_types_of_their_columns() {
    on_a_worker(async {
        let test = TestConsole::new();
        let _client = test.client("app", "alice");
        for view in VIEWS {
            for row in (view.rows)(&test.console) {
                assert_eq!(row.len(), view.columns.len(), "{}", view.name);
                for (column, value) in view.columns.iter().zip(&row) {
                    let fits = match value {
                        // PgBouncer's numbers are never NULL, which exporters rely on.
                        Value::Null => column.kind == Kind::Text || view.name == "replicas",
                        Value::Text(_) => column.kind == Kind::Text,
                        Value::Number(_) => column.kind != Kind::Text,
                    };
                    assert!(fits, "{}.{}: {value:?}", view.name, column.name);
                }
                table::row(&mut Vec::new(), view.columns, &row, &Formats::TEXT);
            }
        }
    });
}

#[test]
fn databases_and_pools_show_what_is_configured_and_what_is_used() {
    on_a_worker(async {
        let test = TestConsole::new();
        let (waiting, _) = test.client("app", "alice");
        waiting.set_state(ClientState::Waiting);
        // Not yet known for which server, so it is in no queue; and its wait has just begun.
        waiting.requested_at.store(u64::MAX, Relaxed);
        let _clients = [test.client("app", "alice"), test.client("other", "bob")];
        test.console.pools.set_disabled("other", true);
        let mut psql = test.connect("root").await;
        assert_eq!(
            psql.lines("SHOW DATABASES").await,
            [
                "app|10.0.0.1|5433|app_production|-|20|0|0|3600|session|-|50|0|0|2|0|0",
                "other|/run/postgresql|5432|other|-|20|0|0|3600|-|-|0|0|0|1|0|1",
                "pgbouncer|-|6432|pgbouncer|pgbouncer|2|0|0|3600|statement|-|0|0|0|1|0|0",
            ]
        );
        assert_eq!(
            psql.lines("SHOW POOLS").await,
            [
                "app|alice|1|1|0|0|0|0|0|0|0|0|0|0|0|transaction|-",
                "other|bob|1|0|0|0|0|0|0|0|0|0|0|0|0|transaction|-",
                "pgbouncer|pgbouncer|1|0|0|0|0|0|0|0|0|0|0|0|0|statement|-",
            ]
        );
        assert_eq!(
            psql.lines("SHOW USERS").await,
            ["alice|        7||-|0|0|0|2", "bob|||-|0|0|0|1"]
        );
        test.console.pools.pause(Some("app"));
        let paused = psql.rows("SHOW DATABASES").await;
        assert_eq!(
            paused.iter().map(|row| &*row[15]).collect::<Vec<_>>(),
            ["1", "0", "0"]
        );
    });
}

#[test]
fn clients_are_listed_with_those_of_the_console() {
    on_a_worker(async {
        let test = TestConsole::new();
        let (client, _) = test.client("app", "alice");
        client.set_state(ClientState::Active);
        client.server.store(9, Relaxed);
        let mut psql = test.connect("monitor").await;
        let rows = psql.rows("SHOW CLIENTS").await;
        assert_eq!(
            rows[0].join("|"),
            "C|alice|app|none|active|10.1.2.3|40000|10.0.0.9|6432|2026-07-31 09:30:45 UTC|\
             2026-07-31 09:30:45 UTC|0|0|0|C1|S9|0|TLSv1.3/TLS_AES_256_GCM_SHA384|shop|0|1"
        );
        assert_eq!(
            rows[1][..8].join("|"),
            "C|monitor|pgbouncer|none|idle|unix|0|unix"
        );
        assert_eq!((&*rows[1][18], &*rows[1][20], rows.len()), ("psql", "2", 2));
        let sockets = psql.rows("SHOW ACTIVE_SOCKETS").await;
        assert_eq!((sockets.len(), &*sockets[0][4]), (1, "cl_active"));
    });
}

#[test]
fn pins_are_shown_with_their_reasons() {
    on_a_worker(async {
        let test = TestConsole::new();
        let (client, _) = test.client("app", "alice");
        let _free = test.client("app", "bob");
        let now = test.console.clients.now();
        client.set_pins(Pins::from_bits(0b1001), || now);
        // That it has one more reason is no new beginning.
        client.set_pins(Pins::from_bits(0b1011), || now + 5000);
        let mut psql = test.connect("root").await;
        let rows = psql.rows("SHOW PINS").await;
        assert_eq!(rows[0][..4].join("|"), "1|alice|app|server");
        assert_eq!(rows[0][6], "advisory_lock,temporary_object,listen");
        let age: u64 = rows[0][5].parse().expect("a number");
        assert!(age <= test.console.clients.now() - now, "{rows:?}");
        assert_eq!(rows.len(), 1);
        client.set_pins(Pins::NONE, || panic!("nothing begins"));
        assert_eq!(psql.rows("SHOW PINS").await.len(), 0);
    });
}

#[test]
fn clients_that_wrote_need_the_primary_until_a_replica_has_replayed_it() {
    on_a_worker(async {
        let test = TestConsole::new();
        let watch = test.watched("app", "alice");
        let (client, _) = test.client("app", "alice");
        let mut psql = test.connect("root").await;
        let mut shown = async || {
            let rows = psql.rows("SHOW PINS").await;
            rows.iter()
                .map(|row| format!("{} {}", row[3], row[6]))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown().await.len(), 0, "it has not written");
        let topology = &watch.topology;
        client.written.store(topology.polls.next(), Relaxed);
        client.written_at.store(test.console.clients.now(), Relaxed);
        assert_eq!(shown().await, ["primary own_writes"], "nobody has asked");
        topology.polls.answer(topology.polls.send(), Lsn(200));
        assert_eq!(shown().await, ["primary own_writes"], "nobody has got it");
        client.set_pins(Pins::from_bits(1), || 1);
        assert_eq!(
            shown().await,
            ["server advisory_lock", "primary own_writes"]
        );
        topology.hosts()[2].set_replayed(Lsn(200));
        assert_eq!(shown().await, ["server advisory_lock"]);
    });
}

#[test]
fn a_pin_by_time_is_shown_while_it_lasts() {
    let toml = "[pool]\npin_after_write = \"1h\"\n[databases.app]\nservers = [{ host = \"h\" }]";
    on_a_worker(async {
        let test = TestConsole::configured(toml);
        let watch = test.watched("app", "alice");
        let (client, _) = test.client("app", "alice");
        // Replayed long ago, as far as positions tell.
        client
            .written
            .store(watch.topology.polls.last_done(), Relaxed);
        client.written_at.store(test.console.clients.now(), Relaxed);
        let rows = test.connect("root").await.rows("SHOW PINS").await;
        assert_eq!((&*rows[0][3], &*rows[0][6]), ("primary", "pin_after_write"));
    });
}

#[test]
fn replicas_are_shown_as_they_were_seen() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("root").await;
        assert_eq!(
            psql.lines("SHOW REPLICAS").await,
            [
                "app|10.0.0.1:5433|primary|unknown|-|-|-|0|0|0|0|0|0|1|100|-|0",
                "app|10.0.0.2:5432|replica|unknown|-|-|-|0|0|0|0|0|0|1|100|-|0",
            ],
            "no client has come yet"
        );
        let watch = test.watched("app", "alice");
        let [p, a, b] = watch.topology.hosts() else {
            panic!("three hosts")
        };
        p.begin(false);
        p.begin(true);
        p.end();
        for _ in 0..3 {
            a.begin(true);
            a.end();
        }
        a.add_latency(120);
        b.set_state(HostState::Lagging);
        b.set_lag(36, 7_000_000);
        b.set_replayed(Lsn(0x40));
        b.set_share(550);
        assert_eq!(
            psql.lines("SHOW REPLICAS").await,
            [
                "app|p|primary|primary|0|0|0/64|1|1|2|1|25|0|1|100|-|0",
                "app|a|replica|replica|0|0|0/64|1|0|3|3|75|120|1|100|-|0",
                "app|b|replica|lagging|36|7000000|0/40|1|0|0|0|0|0|1|55|-|0",
            ]
        );
    });
}

#[test]
fn routes_are_counted_by_target_and_reason() {
    on_a_worker(async {
        let test = TestConsole::new();
        let watch = test.watched("app", "alice");
        let mut psql = test.connect("root").await;
        assert_eq!(psql.rows("SHOW ROUTES").await.len(), 0);
        for (host, reason) in [
            (1, Reason::Hint),
            (2, Reason::Hint),
            (0, Reason::OwnWrites),
            (0, Reason::Hint),
        ] {
            let visit = None;
            watch.count(Decision {
                host,
                reason,
                visit,
            });
        }
        assert_eq!(
            psql.lines("SHOW ROUTES").await,
            [
                "app|replica|hint|2",
                "app|primary|hint|1",
                "app|primary|own_writes|1"
            ]
        );
    });
}

#[test]
fn lists_and_state_and_version() {
    on_a_worker(async {
        let test = TestConsole::new();
        let _client = test.client("other", "bob");
        let mut psql = test.connect("root").await;
        assert_eq!(
            psql.lines("SHOW LISTS").await,
            [
                "databases|3",
                "users|2",
                "peers|0",
                "pools|2",
                "peer_pools|0",
                "free_clients|0",
                "used_clients|2",
                "login_clients|0",
                "free_servers|0",
                "used_servers|0",
                "dns_names|0",
                "dns_zones|0",
                "dns_queries|0",
                "dns_pending|0"
            ]
        );
        assert_eq!(
            psql.lines("SHOW STATE").await,
            ["active|yes", "paused|no", "suspended|no"]
        );
        test.console.pools.pause(None);
        assert_eq!(
            psql.lines("SHOW STATE").await,
            ["active|no", "paused|yes", "suspended|no"]
        );
        let version = format!("PgBouncer 1.25.2 (pgweir {})", env!("CARGO_PKG_VERSION"));
        assert_eq!(psql.lines("SHOW VERSION").await, [version]);
        for (setting, value) in [
            ("client_encoding", "UTF-8"),
            ("DateStyle", "ISO"),
            ("default_transaction_isolation", "read committed"),
            ("standard_conforming_strings", "on"),
            ("TimeZone", "GMT"),
        ] {
            assert_eq!(psql.lines(&format!("SHOW {setting}")).await, [value]);
        }
    });
}

#[test]
fn config_has_the_two_keys_that_exporters_read() {
    on_a_worker(async {
        let test = TestConsole::new();
        let rows = test.connect("monitor").await.rows("SHOW CONFIG").await;
        let value = |key: &str| rows.iter().find(|row| row[0] == key).expect("it is shown");
        assert_eq!(value("max_client_conn")[1..], ["10000", "10000", "yes"]);
        assert_eq!(value("max_user_connections")[1..], ["0", "0", "yes"]);
        assert_eq!(value("listen_port")[3], "no");
        assert!(rows.iter().is_sorted_by_key(|row| &row[0]));
    });
}

#[test]
fn stats_have_a_row_for_every_database_and_survive_their_pools() {
    on_a_worker(async {
        let test = TestConsole::new();
        let pool = test.pool("other", "bob");
        pool.stats.query_count.add(5);
        pool.stats.bytes_sent.add(70);
        drop(pool);
        test.console.pools.forget(|_| true);
        let mut psql = test.connect("root").await;
        assert_eq!(
            psql.lines("SHOW STATS_TOTALS").await,
            [
                "app|0|0|0|0|0|0|0|0|0|0|0",
                "other|0|0|5|0|70|0|0|0|0|0|0",
                "pgbouncer|0|1|1|0|0|0|0|0|0|0|0",
            ]
        );
        let stats = psql.rows("SHOW STATS").await;
        assert_eq!(stats[1][..6].join("|"), "other|0|0|5|0|70");
        assert_eq!(psql.rows("SHOW STATS_AVERAGES").await.len(), 3);
        let totals = psql.lines("SHOW TOTALS").await;
        assert_eq!((totals.len(), &*totals[4]), (22, "total_server_bytes|70"));
        assert_eq!(totals[21], "avg_ps_bind_count|0");
    });
}

#[test]
fn pools_of_one_database_and_user_are_one_row() {
    // Exporters take the two as a key; a replica's pool must not be a second row.
    let names = |rows: Rows| -> Vec<_> { rows.map(|row| row[..2].to_vec()).collect() };
    on_a_worker(async {
        let test = TestConsole::new();
        let _watch = test.watched("app", "alice");
        let _pool = test.pool("app", "bob");
        assert_eq!(test.console.pools.all().len(), 4);
        let rows = names(pools::pools(&test.console));
        let mut unique = rows.clone();
        unique.dedup();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows, unique);
        let lists = test.connect("root").await.lines("SHOW LISTS").await;
        assert!(lists.contains(&"pools|3".to_owned()), "{lists:?}");
    });
}

#[test]
fn numbers_of_connections_fit_their_column_and_still_differ() {
    assert_eq!(shown_id(7), 7);
    assert_eq!(shown_id(1 << 31), 0);
    assert_eq!(shown_id((1 << 31) + 7), 7);
}
