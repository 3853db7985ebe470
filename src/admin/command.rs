//! The console's grammar: one command a string.
//!
//! PgBouncer's (`src/admin.c`: a word with at most one argument, or SET), in which a word is
//! `[0-9a-z_]+` in any case or `"quoted"`; beside it comments, white space of every kind, a string of
//! semicolons at the end, and the empty command. EXPLAIN ROUTE is ours, and takes what follows as it is.
//! Pure: text in, [`Command`] out.

use super::refusal::Refusal;

/// The longest command word, argument and value, in bytes, as in PgBouncer.
const LONGEST_VERB: usize = 15;
const LONGEST_ARGUMENT: usize = 63;
const LONGEST_VALUE: usize = 255;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing but white space, comments and semicolons.
    Empty,
    /// SHOW, or SELECT: of what, in lower case.
    Show(String),
    /// EXPLAIN ROUTE.
    Explain(ExplainRoute),
    /// BEGIN, COMMIT, ROLLBACK and their like, which drivers send by habit; the tag to answer with.
    Transaction(&'static str),
    /// SET of something that drivers set by habit and that means nothing here.
    IgnoredSet,
    /// What changes something.
    Control(Control),
}

/// A command that changes something; where a database is optional, all are meant without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// SET key = value.
    Set {
        /// The setting, in lower case.
        key: String,
        /// Without quotes.
        value: String,
    },
    /// PAUSE.
    Pause(Option<String>),
    /// RESUME.
    Resume(Option<String>),
    /// KILL.
    Kill(Option<String>),
    /// RECONNECT.
    Reconnect(Option<String>),
    /// WAIT_CLOSE.
    WaitClose(Option<String>),
    /// DISABLE of a database.
    Disable(String),
    /// ENABLE of a database.
    Enable(String),
    /// KILL_CLIENT by the number that SHOW CLIENTS gives.
    KillClient(u64),
    /// SUSPEND.
    Suspend,
    /// RELOAD.
    Reload,
    /// SHUTDOWN.
    Shutdown(ShutdownMode),
}

/// `EXPLAIN ROUTE [FOR database [AS user]] statement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExplainRoute {
    /// Whose servers; the only database without it.
    pub(super) database: Option<String>,
    /// Whose settings; the database's own without it.
    pub(super) user: Option<String>,
    /// What would be run, whatever it holds: comments, quotes and semicolons too.
    pub(super) statement: String,
}

/// Settings that drivers set by habit.
const IGNORED_SETTINGS: [&str; 7] = [
    "application_name",
    "client_encoding",
    "datestyle",
    "default_transaction_isolation",
    "extra_float_digits",
    "standard_conforming_strings",
    "timezone",
];

/// How SHUTDOWN ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// At once.
    Immediate,
    /// When every server connection has been given back; nobody gets one any more.
    WaitForServers,
    /// When the last client has left; nobody else comes in.
    WaitForClients,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A bare or quoted word.
    Word(String),
    /// A string constant.
    Text(String),
    Equals,
    Semicolon,
}

/// Reads one command.
pub(super) fn parse(text: &str) -> Result<Command, Refusal> {
    let unknown = || Refusal::unknown(text);
    if let Some(rest) = behind_word(text, "explain").and_then(|rest| behind_word(rest, "route")) {
        return explain_route(rest);
    }
    let mut tokens = tokens(text).ok_or_else(unknown)?;
    while tokens.last() == Some(&Token::Semicolon) {
        tokens.pop();
    }
    let mut words = tokens.into_iter();
    let Some(first) = words.next() else {
        return Ok(Command::Empty);
    };
    let Token::Word(mut verb) = first else {
        return Err(unknown());
    };
    verb.make_ascii_lowercase();
    let rest: Vec<_> = words.collect();
    if let Some(tag) = transaction(&verb, &rest) {
        return Ok(Command::Transaction(tag));
    }
    match (verb.as_str(), <[Token; 3]>::try_from(rest)) {
        ("set", Ok(assignment)) => self::assignment(assignment).unwrap_or_else(|| Err(unknown())),
        (verb, Err(rest)) => {
            let argument = match <[Token; 1]>::try_from(rest) {
                Ok([Token::Word(argument)]) => Some(argument),
                Err(rest) if rest.is_empty() => None,
                _ => return Err(unknown()),
            };
            if verb.len() > LONGEST_VERB {
                return Err(bad_arguments());
            }
            command(verb, bounded(argument, LONGEST_ARGUMENT)?).unwrap_or_else(|| Err(unknown()))
        }
        _ => Err(unknown()),
    }
}

fn bad_arguments() -> Refusal {
    Refusal::new("bad arguments")
}

/// `""` is not "no argument": PAUSE of a database without a name must not pause all.
fn bounded(argument: Option<String>, longest: usize) -> Result<Option<String>, Refusal> {
    match argument {
        Some(argument) if argument.is_empty() || argument.len() > longest => Err(bad_arguments()),
        argument => Ok(argument),
    }
}

fn assignment([key, sign, value]: [Token; 3]) -> Option<Result<Command, Refusal>> {
    let Token::Word(key) = key else { return None };
    let is_sign = match sign {
        Token::Equals => true,
        Token::Word(word) => word.eq_ignore_ascii_case("to"),
        Token::Text(_) | Token::Semicolon => false,
    };
    let (Token::Word(value) | Token::Text(value)) = value else {
        return None;
    };
    if !is_sign {
        return None;
    }
    if key.is_empty() || key.len() > LONGEST_ARGUMENT || value.len() > LONGEST_VALUE {
        return Some(Err(bad_arguments()));
    }
    let key = key.to_ascii_lowercase();
    Some(Ok(if IGNORED_SETTINGS.contains(&key.as_str()) {
        Command::IgnoredSet
    } else {
        Command::Control(Control::Set { key, value })
    }))
}

/// What a driver sends around a command when its autocommit is off: `BEGIN READ ONLY` and the like.
fn transaction(verb: &str, rest: &[Token]) -> Option<&'static str> {
    if !rest.iter().all(|token| matches!(token, Token::Word(_))) {
        return None;
    }
    match verb {
        "begin" => Some("BEGIN"),
        "start" => match rest.first() {
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("transaction") => {
                Some("START TRANSACTION")
            }
            _ => None,
        },
        "commit" | "end" => Some("COMMIT"),
        "rollback" | "abort" => Some("ROLLBACK"),
        _ => None,
    }
}

/// `None` is a command that does not exist, or not in this form.
fn command(verb: &str, argument: Option<String>) -> Option<Result<Command, Refusal>> {
    let control = match verb {
        "show" | "select" => {
            return Some(Ok(Command::Show(argument?.to_ascii_lowercase())));
        }
        "pause" => Control::Pause(argument),
        "resume" => Control::Resume(argument),
        "kill" => Control::Kill(argument),
        "reconnect" => Control::Reconnect(argument),
        "wait_close" => Control::WaitClose(argument),
        "disable" | "enable" => {
            let Some(database) = argument else {
                return Some(Err(Refusal::new("a database is required")));
            };
            match verb {
                "disable" => Control::Disable(database),
                _ => Control::Enable(database),
            }
        }
        "kill_client" => {
            let Some(id) = argument.and_then(|id| id.parse().ok()) else {
                return Some(Err(Refusal::new("invalid client id supplied")));
            };
            Control::KillClient(id)
        }
        "suspend" if argument.is_none() => Control::Suspend,
        "reload" if argument.is_none() => Control::Reload,
        "shutdown" => Control::Shutdown(match argument {
            None => ShutdownMode::Immediate,
            Some(mode) if mode.eq_ignore_ascii_case("wait_for_servers") => {
                ShutdownMode::WaitForServers
            }
            Some(mode) if mode.eq_ignore_ascii_case("wait_for_clients") => {
                ShutdownMode::WaitForClients
            }
            Some(_) => return None,
        }),
        _ => return None,
    };
    Some(Ok(Command::Control(control)))
}

/// What follows a word at the beginning of a text, but for blanks and comments in front of it.
fn behind_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let mut rest = text.trim_start();
    loop {
        rest = if rest.starts_with("--") {
            rest.split_once('\n')?.1.trim_start()
        } else if rest.starts_with("/*") {
            behind_comment(rest)?.trim_start()
        } else {
            break;
        };
    }
    let (found, behind) = bare_word(rest);
    found.eq_ignore_ascii_case(word).then_some(behind)
}

/// A bare word at the beginning of a text, empty if there is none, and what follows it.
fn bare_word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_word(c)).unwrap_or(text.len()))
}

/// No statement begins with FOR, nor with AS. Comments are the statement's: hints stand in them.
fn explain_route(text: &str) -> Result<Command, Refusal> {
    let mut rest = text.trim_start();
    let (mut database, mut user) = (None, None);
    for (word, name) in [("for", &mut database), ("as", &mut user)] {
        let (found, behind) = bare_word(rest);
        if !found.eq_ignore_ascii_case(word) {
            break;
        }
        let (argument, behind) = leading_name(behind.trim_start())?;
        *name = bounded(Some(argument), LONGEST_ARGUMENT)?;
        rest = behind.trim_start();
    }
    if rest.is_empty() {
        return Err(Refusal::new("a statement is required"));
    }
    Ok(Command::Explain(ExplainRoute {
        database,
        user,
        statement: rest.to_owned(),
    }))
}

/// A name at the beginning of a text, bare or quoted, and what follows it.
fn leading_name(text: &str) -> Result<(String, &str), Refusal> {
    let (word, behind) = bare_word(text);
    let found = match text.strip_prefix('"') {
        Some(_) => quoted(text, '"'),
        None => (!word.is_empty()).then(|| (word.to_owned(), behind)),
    };
    found.ok_or_else(|| Refusal::new("a name is required behind FOR and AS"))
}

/// `None` if there is anything that is no token, or a quote or comment does not end.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut rest = text;
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        match first {
            _ if rest.starts_with("--") => {
                rest = rest.split_once('\n').map_or("", |(_, behind)| behind);
            }
            _ if rest.starts_with("/*") => rest = behind_comment(rest)?,
            ';' | '=' => {
                tokens.push(match first {
                    ';' => Token::Semicolon,
                    _ => Token::Equals,
                });
                rest = &rest[1..];
            }
            '"' | '\'' => {
                let (content, behind) = quoted(rest, first)?;
                tokens.push(match first {
                    '"' => Token::Word(content),
                    _ => Token::Text(content),
                });
                rest = behind;
            }
            _ if first.is_whitespace() => rest = rest.trim_start(),
            _ => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                if end == 0 {
                    return None;
                }
                tokens.push(Token::Word(rest[..end].to_owned()));
                rest = &rest[end..];
            }
        }
    }
    Some(tokens)
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// What follows a comment, which may hold comments (manual section 4.1.5).
fn behind_comment(text: &str) -> Option<&str> {
    let (mut depth, mut at) = (0usize, 0);
    loop {
        let found = at + text[at..].find(['/', '*'])?;
        at = found + 1;
        match text.get(found..found + 2) {
            Some("/*") => depth += 1,
            Some("*/") => depth -= 1,
            _ => continue,
        }
        at = found + 2;
        if depth == 0 {
            return Some(&text[at..]);
        }
    }
}

/// The content of a quoted word or string, doubled quotes made single, and what follows it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut rest = &text[1..];
    loop {
        let (part, behind) = rest.split_once(quote)?;
        content.push_str(part);
        match behind.strip_prefix(quote) {
            Some(behind) => {
                content.push(quote);
                rest = behind;
            }
            None => return Some((content, behind)),
        }
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
