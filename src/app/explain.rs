//! `pgweir explain`: where a statement would go, and why, without running it.
//!
//! Tells what the router would decide for a session with the default settings that has written nothing,
//! with a replica that is up to date. Knows no session: a prepared statement that is executed, or a
//! setting that changes what a text means, is not looked for.
//!
//! In bulk, each line of the input is one JSON string and each line of the output one JSON object, in the
//! same order; a line that is no such string costs itself only. Memory is bounded by the longest line.

mod known;

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use self::known::{Known, known};
use crate::{
    config::{LoadBalance, OnLag, PrimaryReads, Role},
    route::{
        Chance, Freshness, Host, HostId, HostState, Need, Patience, Policy, Question, Reason,
        Topology, Verdict, Wishes, decide,
    },
    session::{HOLD_LIMIT, unit},
    sql::{self, Class, Env, Facts, hint},
};

/// What to explain.
#[derive(Debug, Args)]
pub struct Options {
    /// The statement; several in one string count as one.
    #[arg(
        value_name = "SQL",
        required_unless_present = "json",
        conflicts_with = "json"
    )]
    #[arg(allow_hyphen_values = true)]
    statement: Option<OsString>,
    /// Read one JSON string a line from standard input, and write one JSON object a line: class, target,
    /// reason and evidence, or error.
    #[arg(long)]
    json: bool,
    /// The server's major version; without it only what every version has counts as built in.
    #[arg(long, value_name = "VERSION", conflicts_with = "config")]
    server_version: Option<u16>,
    /// Configuration file: asks the primary for the functions, views and tables that the database has.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which database of the configuration, if it has several.
    #[arg(long, value_name = "NAME", requires = "config")]
    database: Option<String>,
    /// As which user to ask, if the configuration has several and the database has none of its own.
    #[arg(long, value_name = "NAME", requires = "config")]
    user: Option<String>,
}

/// Explains one statement, or all of standard input.
pub fn explain(options: &Options) -> anyhow::Result<()> {
    let known = match &options.config {
        Some(path) => known(path, options)?,
        None => Known {
            version: options.server_version.unwrap_or(0),
            ..Known::default()
        },
    };
    let explainer = Explainer::new(&known);
    let output = io::stdout().lock();
    let written = match &options.statement {
        Some(statement) => print(statement.as_bytes(), &explainer, output),
        None => explain_lines(io::stdin().lock(), &explainer, output),
    };
    match written {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot explain"),
    }
}

/// What is told of one query string.
#[derive(Debug, PartialEq, Eq)]
struct Explanation<'t> {
    class: Class,
    target: &'static str,
    reason: Reason,
    /// The bytes that decided; empty where no single place did.
    evidence: &'t [u8],
}

/// The router, before servers that are all there and up to date.
struct Explainer<'k> {
    env: Env<'k>,
    wishes: Wishes,
    topology: Topology,
}

impl<'k> Explainer<'k> {
    const PRIMARY: HostId = 0;

    fn new(known: &'k Known) -> Self {
        let host = |role, state| {
            let host = Host::new("", role, 1, None);
            host.set_state(state);
            host
        };
        let hosts = vec![
            host(Role::Primary, HostState::Primary),
            host(Role::Replica, HostState::Replica),
        ];
        Self {
            env: Env {
                server_version: known.version,
                // As long as a message that is looked at.
                max_len: HOLD_LIMIT,
                knowledge: &*known.knowledge,
                ..Env::default()
            },
            wishes: known.wishes,
            topology: Topology::new(hosts),
        }
    }

    fn explain<'t>(&self, text: &'t [u8]) -> Explanation<'t> {
        let facts = sql::classify(text, &self.env);
        let own = Reason::Statement(facts.reason);
        let (kind, _) = unit::kind(&facts, false);
        let (target, reason) = self.route(Need::of(kind, own), self.wishes(text, &facts));
        let is_read = reason == Reason::Statement(sql::Reason::ProvedRead);
        Explanation {
            class: facts.class,
            target,
            // What may run anywhere may do so for a reason of its own.
            reason: if is_read { own } else { reason },
            evidence: facts.evidence.of(text),
        }
    }

    /// What the settings wish, and the comments of the text.
    fn wishes(&self, text: &[u8], facts: &Facts) -> Wishes {
        let mut wishes = self.wishes;
        if facts.comment {
            let hints = hint::hints(text);
            wishes.hint(hints.route.as_deref(), hints.consistency.as_deref());
        }
        wishes
    }

    fn route(&self, need: Need, wishes: Wishes) -> (&'static str, Reason) {
        let question = Question {
            need,
            wishes,
            freshness: &Freshness::default(),
            shared: 0,
            asked: 0,
            is_pinned: false,
            avoid: None,
            patience: Patience::None,
        };
        let policy = Policy {
            on_lag: OnLag::Primary,
            load_balance: LoadBalance::RoundRobin,
            primary_reads: PrimaryReads::Fallback,
            zone: None,
        };
        let chance = Chance {
            turn: 0,
            dice: 0,
            client: 0,
        };
        match decide(&question, &policy, &self.topology, chance) {
            Verdict::Go(decision) if decision.host == Self::PRIMARY => ("primary", decision.reason),
            Verdict::Go(decision) => ("replica", decision.reason),
            Verdict::Wait { reason, .. } => ("primary", reason),
            Verdict::NoPrimary | Verdict::NoReplica => ("primary", Reason::NoReplica),
        }
    }
}

// ── One, for people ──────────────────────────────────────────────────────────────────────────

fn print(text: &[u8], explainer: &Explainer<'_>, mut output: impl Write) -> io::Result<()> {
    let explanation = explainer.explain(text);
    writeln!(output, "class     {}", explanation.class.code())?;
    writeln!(output, "target    {}", explanation.target)?;
    writeln!(output, "reason    {}", explanation.reason.code())?;
    if !explanation.evidence.is_empty() {
        output.write_all(b"evidence  ")?;
        output.write_all(explanation.evidence)?;
        output.write_all(b"\n")?;
    }
    output.flush()
}

// ── Many, for programs ───────────────────────────────────────────────────────────────────────

/// JSON writes a byte in six at most (`\u0000`).
const LONGEST_ESCAPE: usize = 6;

fn explain_lines(
    input: impl Read,
    explainer: &Explainer<'_>,
    output: impl Write,
) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let mut output = io::BufWriter::new(output);
    let longest = LONGEST_ESCAPE * explainer.env.max_len + "\"\"\r\n".len();
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut rest = input.by_ref().take(longest as u64);
        if rest.read_until(b'\n', &mut line)? == 0 {
            return output.flush();
        }
        let is_cut = line.len() == longest && !line.ends_with(b"\n");
        if is_cut {
            input.skip_until(b'\n')?;
        }
        let explained = if is_cut {
            Err(format!("the line is longer than {longest} bytes"))
        } else {
            explain_line(&line, explainer)
        };
        match explained {
            Ok(object) => writeln!(output, "{object}")?,
            Err(error) => writeln!(output, "{{\"error\":{}}}", Value::from(error))?,
        }
        // Who waits for each answer gets it; who sends many lines at once gets them together.
        if !input.buffer().contains(&b'\n') {
            output.flush()?;
        }
    }
}

/// The object for one line, or what is wrong with the line.
fn explain_line(line: &[u8], explainer: &Explainer<'_>) -> Result<String, String> {
    let text: String = serde_json::from_slice(line)
        .map_err(|error| format!("the line is no JSON string: {error}"))?;
    if text.contains('\0') {
        return Err("a statement cannot hold a NUL".to_owned());
    }
    let explanation = explainer.explain(text.as_bytes());
    let evidence = match str::from_utf8(explanation.evidence) {
        Ok(evidence) => Value::from(evidence),
        Err(_) => Value::from(explanation.evidence.escape_ascii().to_string()),
    };
    Ok(format!(
        r#"{{"class":"{}","target":"{}","reason":"{}","evidence":{evidence}}}"#,
        explanation.class.code(),
        explanation.target,
        explanation.reason.code(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let known = Known::default();
        let explainer = Explainer::new(&known);
        let explanation = explainer.explain(text.as_bytes());
        let (class, target) = (explanation.class.code(), explanation.target);
        format!("{class} {target} {}", explanation.reason.code())
    }

    #[test]
    fn a_string_goes_where_the_router_would_send_it() {
        for (text, expected) in [
            ("SELECT 1", "read replica proved_read"),
            ("SELECT nextval('s')", "write primary sequence_function"),
            ("", "empty replica no_statement"),
            ("BEGIN", "begin primary transaction_control"),
            ("BEGIN READ ONLY", "begin replica read_only_transaction"),
            (
                "START TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE",
                "begin primary transaction_control",
            ),
            (
                "BEGIN READ ONLY; SELECT 1",
                "write primary mixed_statements",
            ),
            ("COMMIT", "transaction primary transaction_control"),
            ("SET work_mem = '1MB'", "set replica setting"),
            ("EXECUTE q", "execute primary prepared_statement"),
            ("LISTEN c", "session primary session_statement"),
            ("SELECT 'x", "unknown primary unterminated"),
            ("/* pgweir: primary */ SELECT 1", "read primary hint"),
            ("/* pgweir: Replica */ DELETE FROM t", "write replica hint"),
            ("/* pgweir: nowhere */ SELECT 1", "read replica proved_read"),
            (
                "/* pgweir: consistency=primary */ SELECT 1",
                "read primary consistency_primary",
            ),
            (
                "/* pgweir: consistency=strong */ SELECT 1",
                "read replica proved_read",
            ),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn a_line_of_any_length_costs_itself_only() {
        let known = Known::default();
        let mut explainer = Explainer::new(&known);
        explainer.env.max_len = 10;
        let fits = format!("\"{}\"\r\n", "\\u0061".repeat(10));
        let long = format!("\"{}\"\n", "a".repeat(63));
        let input = format!("{fits}{long}{}\"TABLE t\"", long.repeat(3));
        let mut output = Vec::new();
        explain_lines(input.as_bytes(), &explainer, &mut output).unwrap();
        let lines: Vec<&str> = str::from_utf8(&output).unwrap().lines().collect();
        let is_error = |line: &&str| line.starts_with(r#"{"error":"the line is longer than "#);
        assert_eq!(lines.len(), 6);
        assert!(
            lines[0].contains(r#""reason":"unknown_statement""#),
            "{}",
            lines[0]
        );
        assert!(lines[1..5].iter().all(is_error), "{lines:?}");
        assert!(lines[5].contains(r#""target":"replica""#), "{}", lines[5]);
    }
}
