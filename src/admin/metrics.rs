//! The tables of SHOW in Prometheus' text format.
//!
//! [`SOURCES`] says which columns of which [`View`] become metrics, and what they are called; nothing is
//! counted here, so a metric and its column never disagree. Knows no HTTP.

mod exporter;
mod exposition;
mod sources;

use std::collections::BTreeMap;

use self::{
    exposition::{Exposition, Labels},
    sources::{FREE_TEXT, FREE_TEXT_GROUPS, FREE_TEXT_LENGTH, Metric, SOURCES, Shape, Source},
};
use super::{
    Console,
    show::{View, view},
    table::{Column, Row, Value},
};

impl Console {
    /// All metrics, in version 0.0.4 of the text format (the page "Exposition formats" of Prometheus'
    /// manual). It looks at every client, as SHOW CLIENTS does: not for a thread that serves clients.
    pub fn metrics(&self) -> String {
        let mut out = Exposition::default();
        out.family(&sources::UP);
        out.sample(&[], "1");
        for source in SOURCES {
            let View { columns, rows, .. } = view(source.view).expect("a test looks for each");
            render(&mut out, source, columns, &mut rows(self));
        }
        out.into_text()
    }
}

fn render(
    out: &mut Exposition,
    source: &Source,
    columns: &[Column],
    rows: &mut dyn Iterator<Item = Row>,
) {
    let place = |name: &str| {
        let place = columns.iter().position(|column| column.name == name);
        place.expect("a test looks for each")
    };
    let labels: Vec<_> = source.labels.iter().map(|name| place(name)).collect();
    let of = |row: &Row| -> Vec<String> { labels.iter().map(|at| text(&row[*at])).collect() };
    match &source.shape {
        Shape::Columns(metrics) => {
            let rows: Vec<_> = rows.map(|row| (of(&row), row)).collect();
            for (column, metric) in *metrics {
                let at = place(column);
                let values = rows.iter().map(|(labels, row)| (labels, &row[at]));
                samples(out, metric, source.labels, values);
            }
        }
        Shape::Names(metrics) => {
            let rows: BTreeMap<_, _> = rows.map(|row| (text(&row[0]), row)).collect();
            for (name, metric) in *metrics {
                let found = rows.get(*name).map(|row| (of(row), &row[1]));
                let values = found.iter().map(|(labels, value)| (labels, *value));
                samples(out, metric, source.labels, values);
            }
        }
        Shape::Count(metric) => {
            out.family(metric);
            for (values, count) in count(source.labels, rows.map(|row| of(&row))) {
                out.sample(&pairs(source.labels, &values), &count.to_string());
            }
        }
        Shape::States {
            column,
            all,
            label,
            metric,
        } => {
            let at = place(column);
            out.family(metric);
            for row in rows {
                let (own, now) = (of(&row), text(&row[at]));
                for state in all() {
                    let mut labels = pairs(source.labels, &own);
                    labels.push((label, state));
                    out.sample(&labels, if now == state { "1" } else { "0" });
                }
            }
        }
    }
}

/// A family with a sample for each row; NULL is none.
fn samples<'a>(
    out: &mut Exposition,
    metric: &Metric,
    names: &[&'static str],
    rows: impl Iterator<Item = (&'a Vec<String>, &'a Value)>,
) {
    out.family(metric);
    for (labels, value) in rows {
        if let Some(number) = number(value) {
            out.sample(&pairs(names, labels), &metric.unit.show(number));
        }
    }
}

/// How many rows have the same labels.
///
/// What clients may call themselves as they like is cut, and not told apart any more when there are too
/// many, so that nobody can fill Prometheus' memory.
fn count(
    names: &[&'static str],
    rows: impl Iterator<Item = Vec<String>>,
) -> BTreeMap<Vec<String>, u64> {
    let free = names.iter().position(|name| *name == FREE_TEXT);
    let mut groups: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for mut labels in rows {
        if let Some(free) = free {
            let text = &mut labels[free];
            text.truncate(text.floor_char_boundary(FREE_TEXT_LENGTH));
            if groups.len() >= FREE_TEXT_GROUPS && !groups.contains_key(&labels) {
                labels[free].clear();
            }
        }
        *groups.entry(labels).or_default() += 1;
    }
    groups
}

fn pairs<'a>(names: &[&'static str], values: &'a [String]) -> Labels<'a> {
    let values = values.iter().map(String::as_str);
    names.iter().copied().zip(values).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Text(text) => text.to_string(),
        Value::Number(number) => number.to_string(),
    }
}

/// A number, also one that SHOW CONFIG has as text.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Null => None,
        Value::Text(text) => text.parse().ok(),
        Value::Number(number) => Some(*number),
    }
}

#[cfg(test)]
mod tests;
