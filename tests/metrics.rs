//! `metrics_listen` from outside: that what it answers is of Prometheus' text format, says what happened, and
//! comes whatever else goes on.

#![expect(clippy::panic, reason = "a test stops at what it did not expect")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use ::pgweir::sandbox::{Cluster, Waited};
use support::{Pgweir, PgweirBuilder, eventually, postgres, raw::Raw, replicated_postgres};

const PATIENCE: Duration = Duration::from_secs(60);

/// A pooler with an endpoint.
struct Stage {
    pooler: Pgweir,
    endpoint: SocketAddr,
}

/// An answer over HTTP.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Stage {
    fn new(cluster: &Cluster) -> Self {
        Self::with(cluster, |builder| builder)
    }

    fn with(cluster: &Cluster, configure: impl FnOnce(PgweirBuilder) -> PgweirBuilder) -> Self {
        let builder = Pgweir::builder(cluster)
            .pgweir("workers", "1")
            .pgweir("metrics_listen", "\"127.0.0.1:0\"")
            .pool("health_check_interval", "\"100ms\"");
        let pooler = configure(builder).start();
        let said = |line: &str| line.contains("listening on http://");
        let endpoint = match pooler.log().wait_for(0, PATIENCE, said) {
            Waited::Line(line) => {
                let (_, rest) = line.split_once("http://").expect("it was looked for");
                let (address, _) = rest.split_once("/metrics").expect("the path follows");
                address.parse().expect("an address")
            }
            other => panic!("no endpoint: {other:?}"),
        };
        Self { pooler, endpoint }
    }

    fn client(&self) -> Raw {
        Raw::connect(self.pooler.address(), "postgres")
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.endpoint).expect("it listens");
        let limit = stream.set_read_timeout(Some(PATIENCE));
        limit.expect("the socket is open");
        stream
    }

    fn ask(&self, request: &str) -> Answer {
        let mut stream = self.dial();
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.strip_prefix("HTTP/1.1 ").expect("HTTP");
        Answer {
            status: status[..3].parse().expect("a number"),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn metrics(&self) -> Metrics {
        let answer = self.ask("GET /metrics");
        assert_eq!(answer.status, 200);
        Metrics::parse(&answer.body)
    }
}

/// A text, checked line by line; values in millionths.
struct Metrics(BTreeMap<Series, u64>);

/// A name, and labels with their values.
type Series = (String, BTreeMap<String, String>);

impl Metrics {
    /// Reads the text by the rules of the format, strictly: `# HELP` and `# TYPE` once for each family and
    /// before its samples, which stand together; no sample twice.
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has an end");
        let mut samples = BTreeMap::new();
        let mut families: Vec<(&str, &str)> = Vec::new();
        let mut helped = BTreeSet::new();
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a text");
                assert!(is_name(name) && helped.insert(name), "{line}");
                unescape(help, "\\n");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                let is_new = families.iter().all(|(known, _)| *known != name);
                assert!(is_new && helped.contains(name), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(["counter", "gauge"].contains(&kind), "{line}");
                families.push((name, kind));
            } else {
                let (series, value) = sample(line);
                let (family, _) = families.last().expect("a family before its samples");
                assert_eq!(series.0, *family, "{line}");
                assert!(samples.insert(series, value).is_none(), "twice: {line}");
            }
        }
        assert_eq!(families.len(), helped.len());
        Self(samples)
    }

    /// The sum of all samples of this name with these labels, whatever else they have.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let is_meant = |(its_name, its): &Series| {
            let has = |(label, value): &(&str, &str)| its.get(*label).is_some_and(|it| it == value);
            its_name == name && labels.iter().all(has)
        };
        let samples = self.0.iter().filter(|(series, _)| is_meant(series));
        samples.map(|(_, value)| value).sum()
    }

    /// The same of what has no fractions.
    fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels) / 1_000_000
    }
}

fn sample(line: &str) -> (Series, u64) {
    let end = line.find(['{', ' ']).expect("a name ends");
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value) = rest.split_once("=\"").expect("a label and its value");
            let is_first = !label.starts_with(|c: char| c.is_ascii_digit());
            assert!(is_name(label) && is_first && !label.contains(':'), "{line}");
            let end = closing_quote(value);
            let value_text = unescape(&value[..end], "\\n\"");
            assert!(
                labels.insert(label.to_owned(), value_text).is_none(),
                "{line}"
            );
            rest = &value[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').expect("labels end");
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    ((name.to_owned(), labels), millionths(value))
}

/// Reads a number with up to six places: ours have no more, and no exponents.
fn millionths(text: &str) -> u64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = format!("{whole}{fraction:0<6}");
    let fits = fraction.len() <= 6 && digits.bytes().all(|b| b.is_ascii_digit());
    assert!(fits && !whole.is_empty(), "{text}");
    digits.parse().expect("digits")
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(fits)
}

fn closing_quote(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().find(|(_, c)| {
        let is_end = *c == '"' && !is_escaped;
        is_escaped = *c == '\\' && !is_escaped;
        is_end
    });
    end.expect("a value ends").0
}

/// Takes the escapes out; `known` are the characters that may be escaped.
fn unescape(text: &str, known: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let escaped = chars.next().expect("something is escaped");
        assert!(
            escaped == 'n' || escaped == '\\' || known.contains(escaped),
            "{text}"
        );
        out.push(if escaped == 'n' { '\n' } else { escaped });
    }
    out
}

#[test]
fn metrics_tell_what_happened() {
    let stage = Stage::new(replicated_postgres());
    let name = "a \\ \"quoted\"\nname";
    let parameters = [("application_name", name)];
    let mut client = Raw::connect_with(stage.pooler.address(), "postgres", &parameters);
    let state = |metrics: &Metrics, state| {
        let labels = [("database", "postgres"), ("state", state)];
        metrics.count("pgweir_host_state", &labels)
    };
    eventually("its servers are seen", || {
        client.run("SELECT 1");
        let metrics = stage.metrics();
        state(&metrics, "primary") + state(&metrics, "replica") == 3
    });
    let before = stage.metrics();
    for _ in 0..5 {
        client.run("SELECT 1");
    }
    client.run("CREATE TABLE metrics_tell_what_happened (i int)");
    client.run("DROP TABLE metrics_tell_what_happened");
    let after = stage.metrics();
    let moved =
        |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    let own = ("database", "postgres");
    let routed = |target, reason| {
        let labels = [own, ("target", target), ("reason", reason)];
        moved("pgweir_routes_total", &labels) / 1_000_000
    };
    assert_eq!(routed("replica", "proved_read"), 5);
    assert_eq!(routed("primary", "data_definition"), 2);
    let total = |name: &str| moved(&format!("pgbouncer_stats_totals_{name}"), &[own]);
    assert_eq!(total("queries_pooled_total"), 7_000_000);
    assert_eq!(total("sql_transactions_pooled_total"), 7_000_000);
    assert!(total("received_bytes_total") > 0 && total("sent_bytes_total") > 0);
    assert!(total("queries_duration_seconds_total") > 0);
    assert_eq!(moved("pgweir_host_reads_total", &[own]), 5_000_000);
    assert_eq!(after.count("pgbouncer_up", &[]), 1);
    client.run("LISTEN metrics");
    let pinned = [own, ("pin", "server"), ("reasons", "listen")];
    eventually("it is asked what it has left behind", || {
        let pinned = stage.metrics().count("pgweir_pinned_clients", &pinned);
        pinned == 1
    });
    let after = stage.metrics();
    let named = [
        own,
        ("user", "postgres"),
        ("application_name", name),
        ("state", "active"),
    ];
    assert_eq!(after.count("pgbouncer_client_connections", &named), 1);
    let active = "pgbouncer_pools_server_active_connections";
    assert_eq!(after.count(active, &[own, ("user", "postgres")]), 1);
}

#[test]
fn metrics_are_what_the_console_shows() {
    let stage = Stage::new(replicated_postgres());
    let mut client = stage.client();
    client.run("SELECT 1");
    client.run("SELECT pg_is_in_recovery()");
    let mut console = Raw::connect(stage.pooler.address(), "pgweir");
    let metrics = stage.metrics();
    let routes = console.rows("SHOW ROUTES");
    assert!(!routes.is_empty());
    for row in routes {
        let fields: Vec<_> = row.split('|').collect();
        let labels = [
            ("database", fields[0]),
            ("target", fields[1]),
            ("reason", fields[2]),
        ];
        let shown: u64 = fields[3].parse().expect("a number");
        assert_eq!(
            metrics.count("pgweir_routes_total", &labels),
            shown,
            "{row}"
        );
    }
    let hosts = console.rows("SHOW REPLICAS");
    assert_eq!(hosts.len(), 3);
    for row in hosts {
        let fields: Vec<_> = row.split('|').collect();
        let labels = [
            ("database", fields[0]),
            ("host", fields[1]),
            ("role", fields[2]),
        ];
        assert_eq!(metrics.count("pgweir_host_info", &labels), 1, "{row}");
    }
}

#[test]
fn other_paths_and_methods_are_refused() {
    let stage = Stage::new(postgres());
    let metrics = stage.ask("GET /metrics?name[]=x");
    let text = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(metrics.head.contains(text), "{}", metrics.head);
    for path in ["/livez", "/readyz"] {
        let answer = stage.ask(&format!("GET {path}"));
        assert_eq!(answer.status, 200, "{path}");
        let head = stage.ask(&format!("HEAD {path}"));
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
    }
    for (request, status) in [
        ("GET /", 404),
        ("GET /metrics/", 404),
        ("POST /", 404),
        ("POST /metrics", 405),
        ("DELETE /livez", 405),
    ] {
        assert_eq!(stage.ask(request).status, status, "{request}");
    }
    assert!(stage.ask("PUT /readyz").head.contains("allow: get, head"));
    let mut stream = stage.dial();
    let long = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    // It closes before it has read all of it.
    drop(stream.write_all(long.as_bytes()));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(stage.ask("GET /livez").status, 200);
}

#[test]
fn a_full_pool_keeps_nobody_from_looking() {
    let stage = Stage::with(postgres(), |builder| builder.pool_size(1));
    let mut holder = stage.client();
    holder.run("BEGIN");
    let mut waiter = stage.client();
    waiter.send(&support::raw::query("SELECT 1"));
    let labels = [("database", "postgres"), ("user", "postgres")];
    eventually("it waits", || {
        let waiting = "pgbouncer_pools_client_waiting_connections";
        stage.metrics().count(waiting, &labels) == 1
    });
    assert_eq!(stage.ask("GET /readyz").status, 200);
    holder.run("COMMIT");
    assert_eq!(waiter.answers().last().map(String::as_str), Some("Z I"));
}

#[test]
fn a_pooler_that_drains_is_alive_and_not_ready() {
    let mut stage = Stage::new(postgres());
    let mut client = stage.client();
    client.run("BEGIN");
    stage.pooler.signal("TERM");
    let log = stage.pooler.log();
    let said = log.wait_for(0, PATIENCE, |line| line.contains("shutting down"));
    assert!(matches!(said, Waited::Line(_)), "{said:?}");
    let ready = stage.ask("GET /readyz");
    assert_eq!((ready.status, &*ready.body), (503, "draining\n"));
    assert_eq!(stage.ask("GET /livez").status, 200);
    let used = stage.metrics().count("pgbouncer_used_clients", &[]);
    assert_eq!(used, 1);
    client.run("COMMIT");
    let status = stage.pooler.wait_exit();
    assert!(status.success(), "{status}");
}

/// More than it lets be connected at the same time.
const CROWD: usize = 64;

#[test]
fn silent_clients_stop_nobody_and_are_cut_off() {
    let stage = Stage::new(postgres());
    let before = stage.pooler.descriptors();
    let mut silent: Vec<_> = (0..CROWD)
        .map(|_| {
            let mut stream = stage.dial();
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHo")
                .expect("it listens");
            stream
        })
        .collect();
    assert_eq!(stage.ask("GET /livez").status, 200);
    stage.metrics();
    assert!(stage.pooler.descriptors() < before + CROWD);
    // Those who came first had to go when there were too many, the others when their time was over.
    for stream in &mut silent {
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(!answer.starts_with(b"HTTP/1.1 200")),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn a_port_in_use_is_said_in_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let address = taken.local_addr().expect("it is bound");
    let mut pooler = Pgweir::builder(postgres())
        .pgweir("metrics_listen", &format!("\"{address}\""))
        .spawn();
    let status = pooler.wait_exit();
    assert_eq!(status.code(), Some(1));
    let sentence = format!("cannot listen on {address}: the port is in use by another process");
    let log = pooler.log().text();
    assert!(log.contains(&sentence), "{log}");
}

#[test]
fn without_the_setting_nothing_listens() {
    let pooler = Pgweir::builder(postgres()).start();
    Raw::connect(pooler.address(), "postgres").run("SELECT 1");
    assert!(!pooler.log().text().contains("listening on http://"));
}
