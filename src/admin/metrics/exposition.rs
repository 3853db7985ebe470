//! The text format itself: families of samples, and how their values are escaped.
//!
//! Knows no table. Invariant: the text is valid as far as names of metrics and labels are, and no family
//! is begun twice; both are constants.

use super::sources::{Kind, Metric, Unit};

/// Names and values of a sample's labels.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A text in the making.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family; samples of it follow.
    pub(super) fn family(&mut self, metric: &Metric) {
        let Metric {
            name, help, kind, ..
        } = metric;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.family = name;
        self.text.push_str("# HELP ");
        self.text.push_str(name);
        self.text.push(' ');
        escape(&mut self.text, help, false);
        self.text.push_str("\n# TYPE ");
        self.text.push_str(name);
        self.text.push(' ');
        self.text.push_str(kind);
        self.text.push('\n');
    }

    /// A sample of the present family.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: &str) {
        self.text.push_str(self.family);
        let mut before = '{';
        for (name, value) in labels {
            self.text.push(before);
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(&mut self.text, value, true);
            self.text.push('"');
            before = ',';
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.text.push(' ');
        self.text.push_str(value);
        self.text.push('\n');
    }

    /// The whole.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// A backslash and a line feed are escaped everywhere, a quote in values of labels only.
fn escape(out: &mut String, text: &str, is_label: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_label => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

impl Unit {
    /// A number of SHOW in the base unit of its metric, exactly.
    pub(super) fn show(self, number: u64) -> String {
        match self {
            Self::One => number.to_string(),
            Self::Microseconds => format!("{}.{:06}", number / 1_000_000, number % 1_000_000),
            Self::Percent => format!("{}.{:02}", number / 100, number % 100),
        }
    }
}
