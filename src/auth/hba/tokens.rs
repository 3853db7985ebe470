//! Lines and fields of `pg_hba.conf` and `pg_ident.conf`: blanks separate fields, commas the values of one, double quotes keep both and
//! take a keyword's meaning away, `#` begins a comment, a backslash at the end continues the line.

use super::HbaProblem;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// It began with a quote: it is a name, never a keyword.
    pub(crate) quoted: bool,
}

/// The lines with their numbers (from 1), continued ones joined under the number of the first.
pub(crate) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (index, line) in text.lines().enumerate() {
        let (line, continues) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, last)) if continued => last.push_str(line),
            _ => lines.push((index + 1, line.to_owned())),
        }
        continued = continues;
    }
    lines
}

/// The fields of a line, each a list of one or more values; none for a blank line or a comment.
pub(crate) fn fields(line: &str) -> Result<Vec<Vec<Token>>, HbaProblem> {
    let mut fields: Vec<Vec<Token>> = Vec::new();
    let mut chars = line.chars().peekable();
    let mut comma = false;
    loop {
        while chars.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        if matches!(chars.peek(), None | Some('#')) {
            return Ok(fields);
        }
        let token = token(&mut chars)?;
        match fields.last_mut() {
            Some(field) if comma => field.push(token),
            _ => fields.push(vec![token]),
        }
        // As in PostgreSQL, only a comma that touches the value before it continues a list.
        comma = chars.next_if_eq(&',').is_some();
    }
}

fn token(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, HbaProblem> {
    let quoted = chars.peek() == Some(&'"');
    let mut text = String::new();
    let mut inside = false;
    while let Some(c) = chars.next_if(|c| inside || !(c.is_whitespace() || *c == ',' || *c == '#'))
    {
        match c {
            '"' if inside && chars.next_if_eq(&'"').is_some() => text.push('"'),
            '"' => inside = !inside,
            _ => text.push(c),
        }
    }
    match inside {
        true => Err(HbaProblem::Quote),
        false => Ok(Token { text, quoted }),
    }
}
