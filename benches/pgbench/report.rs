//! The tables: a row a measurement, a column a subject, and the ratio that matters.

use std::process::Command;

use crate::{
    Plan, process,
    rig::{Rig, Subject},
};

/// All that was measured so far.
pub(crate) struct Report {
    pub(crate) main: Table,
    /// pgweir with routing and without.
    pub(crate) routing: Table,
    settings: String,
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    /// By [`Subject`].
    values: [Option<f64>; Subject::COUNT],
}

const BEGIN: &str = "<!-- make bench writes from here -->";
const END: &str = "<!-- to here -->";

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            main: Table::default(),
            routing: Table::default(),
            settings: format!(
                "pool of {}, transaction mode, TCP on 127.0.0.1; medians of {} rounds of {} s, subjects in turn",
                plan.pool_size, plan.rounds, plan.seconds
            ),
        }
    }

    pub(crate) fn render(&self, rig: &Rig) -> String {
        let mut text = String::new();
        let pgbouncer = rig.pgbouncer_version.map_or_else(
            || "PgBouncer".to_owned(),
            |(major, minor)| format!("PgBouncer {major}.{minor}"),
        );
        let lines = [
            format!("* Machine: {}.", process::machine()),
            format!("* Commit: {}.", commit()),
            format!(
                "* PostgreSQL {}, {pgbouncer}; {}.",
                rig.cluster.binaries().version,
                self.settings
            ),
            String::new(),
        ];
        text.push_str(&lines.join("\n"));
        if !self.main.rows.is_empty() {
            self.main.render_beside(&pgbouncer, &mut text);
        }
        if !self.routing.rows.is_empty() {
            self.routing.render_routing(&mut text);
        }
        text
    }
}

impl Table {
    /// Sets one cell; the row is made at its first.
    pub(crate) fn set(&mut self, name: &str, subject: Subject, value: f64) {
        if !self.rows.iter().any(|row| row.name == name) {
            self.rows.push(Row {
                name: name.to_owned(),
                values: [None; Subject::COUNT],
            });
        }
        let row = self.rows.iter_mut().find(|row| row.name == name);
        row.expect("it has just been made").values[subject as usize] = Some(value);
    }

    fn render_beside(&self, pgbouncer: &str, text: &mut String) {
        text.push_str(&format!(
            "\n| | direct | pgweir | {pgbouncer} | pgweir ÷ PgBouncer |\n|---|--:|--:|--:|--:|"
        ));
        for row in &self.rows {
            let [direct, pgweir, pgbouncer, ..] = row.values;
            let stand_in = self.stand_in(row);
            let theirs = pgbouncer.or(stand_in);
            let ratio = ratio(pgweir, theirs);
            let pgbouncer = match stand_in {
                Some(value) => format!("({})", cell(Some(value))),
                None => cell(pgbouncer),
            };
            let (name, direct, pgweir) = (&row.name, cell(direct), cell(pgweir));
            text.push_str(&format!(
                "\n| {name} | {direct} | {pgweir} | {pgbouncer} | {ratio} |"
            ));
        }
        if self.rows.iter().any(|row| self.stand_in(row).is_some()) {
            text.push_str(
                "\n\nIn brackets: before 1.21 PgBouncer has no prepared statements in transaction \
                 mode; its figure for the extended protocol stands in.",
            );
        }
        text.push('\n');
    }

    fn render_routing(&self, text: &mut String) {
        text.push_str(
            "\npgweir before a primary alone, without routing before the two replicas (half of the \
             clients ask for the one, half for the other), and before all three, routing. The pools of \
             the replicas are half the size, so that as many reads run at once. What more servers cost \
             a pooler on the same machine, by their use of its caches, is in the second column.\n\n\
             | | one server | divided by hand | routed | routed ÷ one server | routed ÷ by hand |\n\
             |---|--:|--:|--:|--:|--:|",
        );
        for row in &self.rows {
            let [_, off, _, on, by_hand] = row.values;
            let ratios = [off, by_hand].map(|other| ratio(on, other)).join(" | ");
            let values = [off, by_hand, on].map(cell).join(" | ");
            text.push_str(&format!("\n| {} | {values} | {ratios} |", row.name));
        }
        text.push('\n');
    }

    /// What PgBouncer is compared by in a row of prepared statements that it cannot run.
    fn stand_in(&self, row: &Row) -> Option<f64> {
        let theirs = |row: &Row| row.values[Subject::PgBouncer as usize];
        if theirs(row).is_some() {
            return None;
        }
        let name = format!("extended{}", row.name.strip_prefix("prepared")?);
        theirs(self.rows.iter().find(|row| row.name == name)?)
    }
}

/// Puts `table` into the document, in the place of the last one.
pub(crate) fn insert(document: &str, table: &str) -> String {
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.unwrap_or((
        "# Benchmarks\n\nWritten by `make bench`; `benches/pgbench` says what is measured and how.\n\n",
        "\n",
    ));
    format!("{before}{BEGIN}\n{table}{END}{after}")
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
    ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// Three significant digits, and a dash for what was not measured.
fn cell(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 100.0 => grouped(value),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(hash) if changed.is_some_and(|c| !c.is_empty()) => format!("{hash} with changes"),
        Some(hash) => hash,
        None => "unknown".to_owned(),
    }
}
