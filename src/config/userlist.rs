//! PgBouncer's `userlist.txt`: `"user" "password"` per line.
//!
//! Knows the text only. Invariant: reads what PgBouncer's own reader accepts (quotes are doubled inside
//! quotes, `;` and `#` begin a comment, further fields of a line are ignored).

/// Reads the users and their passwords, in order; a user that comes twice keeps its last password,
/// as in PgBouncer.
///
/// # Errors
/// The byte offset at which it is no userlist, and what was expected there.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, &'static str)> {
    let mut users: Vec<(String, String)> = Vec::new();
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        let at = |rest: &str| line_start + line.len() - rest.len();
        let rest = line.trim_start();
        if !rest.is_empty() && !rest.starts_with([';', '#']) {
            let (user, rest) =
                quoted(rest).ok_or_else(|| (at(rest), "a user name in double quotes"))?;
            let rest = rest.trim_start();
            let (password, _) =
                quoted(rest).ok_or_else(|| (at(rest), "a password in double quotes"))?;
            if user.is_empty() {
                return Err((line_start, "a user name"));
            }
            match users.iter_mut().find(|(known, _)| *known == user) {
                Some((_, known)) => *known = password,
                None => users.push((user, password)),
            }
        }
        line_start += line.len();
    }
    Ok(users)
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut out = String::new();
    loop {
        let end = rest.find('"')?;
        out.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        let Some(more) = rest.strip_prefix('"') else {
            return Some((out, rest));
        };
        out.push('"');
        rest = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_users_comments_and_doubled_quotes() {
        let text =
            "; a comment\n\"bob\" \"md5x\"\n\n  \"a\"\"b\"  \"\" \"\" extra\n# x\n\"bob\" \"new\"";
        let want = [("bob", "new"), ("a\"b", "")];
        let got = parse(text).unwrap();
        let got: Vec<_> = got
            .iter()
            .map(|(user, word)| (user.as_str(), word.as_str()))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn says_where_it_is_wrong() {
        assert_eq!(parse("\"a\" \"b\"\nbob x").unwrap_err().0, 8);
        assert_eq!(
            parse("\"a\" b").unwrap_err(),
            (4, "a password in double quotes")
        );
        assert!(parse("\"a").is_err());
        assert!(parse("\"\" \"x\"").is_err());
    }
}
