//! SHOW STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS.
//!
//! One order of figures serves all four; it is PgBouncer's.

use super::super::Console;
use crate::{
    admin::table::{Row, Rows, Value},
    stats::{Totals, averages::ByDatabase},
};

/// What PgBouncer calls the figures inside, which SHOW TOTALS shows.
const INTERNAL_NAMES: [&str; 11] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
];

fn figures(of: &Totals) -> [u64; 11] {
    [
        of.server_assignment_count,
        of.xact_count,
        of.query_count,
        of.bytes_received,
        of.bytes_sent,
        of.xact_time,
        of.query_time,
        of.wait_time,
        of.client_parse_count,
        of.server_parse_count,
        of.bind_count,
    ]
}

fn row(database: Value, parts: &[&Totals]) -> Row {
    let figures = parts.iter().flat_map(|totals| figures(totals));
    std::iter::once(database)
        .chain(figures.map(Into::into))
        .collect()
}

fn table(of: ByDatabase) -> Rows {
    Box::new(
        of.into_iter()
            .map(|(name, totals)| row((&name).into(), &[&totals])),
    )
}

/// Totals and averages of each database.
pub(super) fn stats(console: &Console) -> Rows {
    let (totals, averages) = console.stats();
    Box::new(totals.into_iter().map(move |(name, totals)| {
        let average = averages.get(&name).copied().unwrap_or_default();
        row((&name).into(), &[&totals, &average])
    }))
}

/// Totals of each database.
pub(super) fn totals(console: &Console) -> Rows {
    table(console.stats().0)
}

/// Averages of each database.
pub(super) fn averages(console: &Console) -> Rows {
    table(console.stats().1)
}

/// Sums over all databases, a figure a row.
pub(super) fn sums(console: &Console) -> Rows {
    let (totals, averages) = console.stats();
    let sum = |of: &ByDatabase| figures(&of.values().fold(Totals::default(), |sum, t| sum + *t));
    let prefixed = |prefix: &str, figures: [u64; 11]| -> Vec<Row> {
        let named = INTERNAL_NAMES.iter().zip(figures);
        named
            .map(|(name, figure)| vec![format!("{prefix}_{name}").into(), figure.into()])
            .collect()
    };
    let mut rows = prefixed("total", sum(&totals));
    rows.extend(prefixed("avg", sum(&averages)));
    Box::new(rows.into_iter())
}
