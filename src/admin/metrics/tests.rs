//! The whole text of a console, and what hostile names and crowds do to it.

use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed};

use super::{
    super::{
        show::VIEWS,
        table::{q, s},
        test_console::{TestConsole, on_a_worker},
    },
    sources::{Kind, Unit},
    *,
};
use crate::{
    pool::ClientState,
    route::{Decision, HostState, Reason},
    session::Pins,
};

fn metrics(source: &'static Source) -> Vec<&'static Metric> {
    match &source.shape {
        Shape::Columns(metrics) | Shape::Names(metrics) => {
            metrics.iter().map(|(_, metric)| metric).collect()
        }
        Shape::Count(metric) | Shape::States { metric, .. } => vec![metric],
    }
}

#[test]
fn every_view_and_column_that_is_named_is_there() {
    for source in SOURCES {
        let view = VIEWS.iter().find(|view| view.name == source.view);
        let view = view.unwrap_or_else(|| panic!("no view {}", source.view));
        let columns: Vec<_> = match &source.shape {
            Shape::Columns(metrics) => metrics.iter().map(|(column, _)| *column).collect(),
            Shape::States { column, .. } => vec![*column],
            Shape::Names(_) | Shape::Count(_) => Vec::new(),
        };
        for name in columns.iter().chain(source.labels) {
            let is_there = view.columns.iter().any(|column| column.name == *name);
            assert!(is_there, "no column {}.{name}", source.view);
        }
    }
}

/// What prometheus-community/pgbouncer_exporter 0.12 answers with PgBouncer 1.25.
const EXPORTER: &str = "
    up version_info
    databases users pools free_clients used_clients login_clients free_servers used_servers
    cached_dns_names cached_dns_zones in_flight_dns_queries
    config_max_client_connections config_max_user_connections client_connections
    databases_pool_size databases_reserve_pool databases_max_connections
    databases_current_connections databases_paused databases_disabled
    stats_totals_queries_pooled_total stats_totals_queries_duration_seconds_total
    stats_totals_received_bytes_total stats_totals_sent_bytes_total
    stats_totals_client_wait_seconds_total stats_totals_sql_transactions_pooled_total
    stats_totals_server_in_transaction_seconds_total stats_totals_client_parses_total
    stats_totals_server_parses_total stats_totals_binds_total
    stats_totals_server_assignments_total
    pools_client_active_connections pools_client_active_cancel_connections
    pools_client_waiting_connections pools_client_waiting_cancel_connections
    pools_server_active_connections pools_server_active_cancel_connections
    pools_server_being_canceled_connections pools_server_idle_connections
    pools_server_used_connections pools_server_testing_connections
    pools_server_login_connections pools_client_maxwait_seconds";

#[test]
fn the_names_are_those_of_the_exporter_and_ours() {
    let metrics: Vec<_> = SOURCES
        .iter()
        .flat_map(metrics)
        .chain([&sources::UP])
        .collect();
    let names: BTreeSet<_> = metrics.iter().map(|it| it.name).collect();
    assert_eq!(names.len(), metrics.len(), "a family is begun once");
    let theirs = names
        .iter()
        .filter_map(|name| name.strip_prefix("pgbouncer_"));
    assert_eq!(
        theirs.collect::<BTreeSet<_>>(),
        EXPORTER.split_whitespace().collect()
    );
    let page = include_str!("../../../docs/metrics.md");
    for metric in metrics {
        assert!(
            page.contains(&format!("| `{}` |", metric.name)),
            "docs/metrics.md: {}",
            metric.name
        );
        let is_counter = metric.kind == Kind::Counter;
        assert_eq!(
            metric.name.ends_with("_total"),
            is_counter,
            "{}",
            metric.name
        );
        assert!(metric.help.ends_with('.'), "{}", metric.name);
        let is_ours = metric.name.starts_with("pgweir_");
        assert!(is_ours || metric.name.starts_with("pgbouncer_"));
    }
}

#[test]
fn help_and_labels_are_escaped() {
    let metric = Metric {
        name: "m",
        kind: Kind::Gauge,
        unit: Unit::One,
        help: "a \"b\" \\ c\nd",
    };
    let mut out = Exposition::default();
    out.family(&metric);
    out.sample(&[("l", "a \"b\" \\ c\nd ü\r}"), ("k", "")], "1");
    assert_eq!(
        out.into_text(),
        "# HELP m a \"b\" \\\\ c\\nd\n# TYPE m gauge\nm{l=\"a \\\"b\\\" \\\\ c\\nd ü\r}\",k=\"\"} 1\n"
    );
}

#[test]
fn units_are_shown_exactly() {
    assert_eq!(Unit::One.show(u64::MAX), "18446744073709551615");
    assert_eq!(Unit::Microseconds.show(12_000_034), "12.000034");
    assert_eq!(Unit::Microseconds.show(u64::MAX), "18446744073709.551615");
    assert_eq!(Unit::Percent.show(7), "0.07");
    assert_eq!(Unit::Percent.show(100), "1.00");
}

/// What becomes of rows of a table with the columns `name`, `text` and `number`.
fn rendered(shape: Shape, rows: Vec<Row>) -> String {
    let source = Source {
        view: "",
        labels: &["name"],
        shape,
    };
    let mut out = Exposition::default();
    let columns = [s("name"), s("text"), q("number")];
    render(&mut out, &source, &columns, &mut rows.into_iter());
    out.into_text()
}

const METRIC: Metric = Metric {
    name: "m",
    kind: Kind::Counter,
    unit: Unit::One,
    help: "Help.",
};

#[test]
fn what_is_not_known_is_no_sample() {
    let rows = vec![
        vec!["a".into(), "".into(), Value::Null],
        vec![Value::Null, "".into(), 7u64.into()],
    ];
    let text = rendered(Shape::Columns(&[("number", METRIC)]), rows);
    assert_eq!(text, "# HELP m Help.\n# TYPE m counter\nm{name=\"\"} 7\n");
}

#[test]
fn a_state_is_one_and_the_others_are_zero() {
    let states = Shape::States {
        column: "text",
        all: || vec!["up", "down"],
        label: "state",
        metric: METRIC,
    };
    let text = rendered(states, vec![vec!["a".into(), "down".into(), Value::Null]]);
    let samples: Vec<_> = text.lines().skip(2).collect();
    assert_eq!(
        samples,
        [
            "m{name=\"a\",state=\"up\"} 0",
            "m{name=\"a\",state=\"down\"} 1"
        ]
    );
}

#[test]
fn names_that_clients_make_up_are_cut_and_have_an_end() {
    let names: &[&'static str] = &["user", FREE_TEXT];
    let many = 2 * FREE_TEXT_GROUPS;
    let rows = (0..many).map(|n| vec!["alice".to_owned(), n.to_string()]);
    let long = vec!["bob".to_owned(), "ü".repeat(FREE_TEXT_LENGTH)];
    // One that is known already is counted where it was.
    let known = vec!["alice".to_owned(), "0".to_owned()];
    let groups = count(names, [long].into_iter().chain(rows).chain([known]));
    assert_eq!(groups.len(), FREE_TEXT_GROUPS + 1);
    assert_eq!(groups.values().sum::<u64>(), many as u64 + 2);
    let of = |user: &str, name: &str| groups[&vec![user.to_owned(), name.to_owned()]];
    assert_eq!(of("alice", ""), (many - FREE_TEXT_GROUPS + 1) as u64);
    assert_eq!(of("alice", "0"), 2);
    assert_eq!(of("bob", &"ü".repeat(31)), 1);
    let other = count(&["user"], (0..many).map(|n| vec![n.to_string()]));
    assert_eq!(
        other.len(),
        many,
        "what clients cannot make up is told apart"
    );
}

/// A database with a primary and two replicas, one of them behind; clients that are pinned and that wait;
/// and a name that needs escapes.
fn populate(test: &TestConsole) {
    let watch = test.watched("app", "alice");
    let [primary, a, b] = watch.topology.hosts() else {
        panic!("three hosts")
    };
    primary.begin(false);
    a.begin(true);
    a.end();
    a.add_latency(1_500);
    b.set_state(HostState::Lagging);
    b.set_lag(36, 7_000_000);
    b.set_share(550);
    for (host, reason) in [(1, Reason::Hint), (0, Reason::OwnWrites), (1, Reason::Hint)] {
        let visit = None;
        watch.count(Decision {
            host,
            reason,
            visit,
        });
    }
    let (pinned, _) = test.client("app", "alice");
    pinned.set_pins(Pins::from_bits(0b1001), || 1);
    let (dirty, _) = test.client("app", "alice");
    dirty.written.store(watch.topology.polls.next(), Relaxed);
    let (waiting, _) = test.client("other", "a \\ \"b\"\n");
    waiting.set_state(ClientState::Waiting);
    // Its wait has just begun.
    waiting.requested_at.store(u64::MAX, Relaxed);
    waiting.pool.stats.query_count.add(3);
    waiting.pool.stats.wait_time.add(2_000_001);
    test.console.pools.set_disabled("other", true);
}

#[test]
fn the_whole_text() {
    on_a_worker(async {
        let test = TestConsole::new();
        populate(&test);
        let expected = include_str!("golden.txt");
        let expected = expected.replace(
            "pgweir VERSION",
            concat!("pgweir ", env!("CARGO_PKG_VERSION")),
        );
        let text = test.console.metrics();
        for (line, expected) in text.lines().zip(expected.lines()) {
            assert_eq!(line, expected);
        }
        assert_eq!(text, expected);
    });
}
