//! What it costs to look at a query string: the short SELECT of pgbench, an ORM's, and others; and to remember it.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgweir::sql::{Env, cache::Cache, classify, recent::Recent, shape};

const PGBENCH: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";

const ORM: &str = "SELECT \"users\".\"id\", \"users\".\"email\", \"users\".\"first_name\", \"users\".\"last_name\", \
    \"users\".\"created_at\", \"users\".\"updated_at\", \"accounts\".\"id\", \"accounts\".\"plan\", \"accounts\".\"balance\", \
    \"accounts\".\"currency\", \"accounts\".\"region\", \"accounts\".\"owner_id\" FROM \"users\" INNER JOIN \"accounts\" \
    ON \"accounts\".\"owner_id\" = \"users\".\"id\" WHERE \"users\".\"active\" = $1 AND \"accounts\".\"region\" IN ($2, $3, $4) \
    ORDER BY \"users\".\"created_at\" DESC LIMIT 20";

const FUNCTIONS: &str = "SELECT lower(name), count(*), coalesce(sum(price), 0), date_trunc('day', created_at) \
    FROM orders WHERE created_at > now() - interval '7 days' GROUP BY 1, 4 HAVING count(*) > 3 ORDER BY 2 DESC";

const INSERT: &str = "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 3, 4, CURRENT_TIMESTAMP);";

fn texts(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify");
    for (name, text) in [
        ("pgbench SELECT", PGBENCH),
        ("ORM SELECT", ORM),
        ("functions", FUNCTIONS),
        ("INSERT", INSERT),
        ("BEGIN", "BEGIN"),
        ("SET", "SET search_path = app, public"),
    ] {
        let env = Env::default();
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("{name} ({} B)", text.len()), |b| {
            b.iter(|| classify(black_box(text.as_bytes()), &env));
        });
    }
    group.finish();
}

fn cached(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache hit");
    for (name, text) in [("ORM SELECT", ORM), ("functions", FUNCTIONS)] {
        let env = Env::default();
        let mut cache = Cache::new(8 << 20);
        // Ten thousand others beside it, as in a long-running worker.
        for number in 0..10_000 {
            let other = format!("SELECT {number:0>200}");
            cache.keep(other.as_bytes(), 0, classify(other.as_bytes(), &env));
        }
        cache.keep(text.as_bytes(), 0, classify(text.as_bytes(), &env));
        group.bench_function(format!("{name} ({} B)", text.len()), |b| {
            b.iter(|| cache.find(black_box(text.as_bytes()), 0));
        });
    }
    let mut cache = Cache::new(8 << 20);
    let mut room = Vec::new();
    assert!(shape(PGBENCH.as_bytes(), &mut room));
    cache.keep(&room, 0, classify(&room, &Env::default()));
    group.bench_function("pgbench SELECT, by its shape", |b| {
        b.iter(|| {
            shape(black_box(PGBENCH.as_bytes()), &mut room);
            cache.find(&room, 0)
        });
    });
    let mut recent = Recent::default();
    recent.keep(
        PGBENCH.as_bytes(),
        0,
        classify(PGBENCH.as_bytes(), &Env::default()),
        true,
    );
    let other = PGBENCH.replace("12345", "6789");
    assert!(recent.find(other.as_bytes(), 0).is_some());
    group.bench_function("pgbench SELECT, by the last of its shape", |b| {
        b.iter(|| recent.find(black_box(other.as_bytes()), 0));
    });
    group.finish();
}

criterion_group!(benches, texts, cached);
criterion_main!(benches);
