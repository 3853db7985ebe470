//! What it costs to find where messages end: many small rows, the few messages of a pgbench transaction, both ways.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgweir::protocol::{encode, frame};

mod messages;

/// As much as the relay reads at once.
const READ: usize = 64 * 1024;

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("rows");
    for (name, value) in [("small", "12345"), ("of 1 kB", &"x".repeat(1000))] {
        let mut bytes = Vec::new();
        let mut count = 0;
        while bytes.len() < READ {
            encode::data_row(&mut bytes, [Some(value.as_bytes())].into_iter());
            count += 1;
        }
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} {name}"), |b| {
            b.iter(|| cut_backend(black_box(&bytes)));
        });
    }
    group.finish();
}

fn transactions(c: &mut Criterion) {
    let mut group = c.benchmark_group("transaction");
    for (name, request) in [
        ("simple", messages::simple(12345)),
        ("extended", messages::extended(12345)),
        ("prepare", messages::prepare()),
        ("prepared", messages::prepared(12345)),
    ] {
        let reply = messages::reply(&request);
        group.bench_function(format!("{name}, request"), |b| {
            b.iter(|| cut_frontend(black_box(&request)));
        });
        group.bench_function(format!("{name}, reply"), |b| {
            b.iter(|| cut_backend(black_box(&reply)));
        });
    }
    group.finish();
}

fn cut_backend(mut rest: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some(frame)) = frame::backend(rest) {
        black_box(frame.tag);
        rest = &rest[frame.bytes.len()..];
        count += 1;
    }
    count
}

fn cut_frontend(mut rest: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some(frame)) = frame::frontend(rest, u32::MAX) {
        black_box(frame.tag);
        rest = &rest[frame.bytes.len()..];
        count += 1;
    }
    count
}

criterion_group!(benches, rows, transactions);
criterion_main!(benches);
