//! One line of `pg_hba.conf`: its fields to a rule.

use super::tokens::{self, Token, fields};
use super::{
    Address, ClientCertificate, ConnectionKind, DatabaseName, HbaProblem, Method, Rule, UserName,
    bits,
};
use std::net::IpAddr;

/// Reads an `@file`.
type Include<'a> = dyn FnMut(&str) -> Result<String, String> + 'a;

/// The rule that the fields of the line with this number make.
pub(super) fn rule(
    line: usize,
    fields: &[Vec<Token>],
    include: &mut Include<'_>,
) -> Result<Rule, HbaProblem> {
    Line { fields }.rule(line, include)
}

/// The fields of one line, taken from the left.
struct Line<'a> {
    fields: &'a [Vec<Token>],
}

impl Line<'_> {
    fn rule(mut self, line: usize, include: &mut Include<'_>) -> Result<Rule, HbaProblem> {
        let kind = match self.one("connection type")?.text.as_str() {
            "local" => ConnectionKind::Local,
            "host" | "hostnogssenc" => ConnectionKind::Host,
            "hostssl" => ConnectionKind::HostTls,
            "hostnossl" => ConnectionKind::HostNoTls,
            "hostgssenc" => ConnectionKind::HostGss,
            keyword @ ("include" | "include_dir" | "include_if_exists") => {
                return Err(HbaProblem::Unsupported(format!("\"{keyword}\"")));
            }
            other => return Err(HbaProblem::Kind(other.to_owned())),
        };
        let databases = names(self.many("database")?, include, &database_name)?;
        let users = names(self.many("user")?, include, &user_name)?;
        let address = match kind {
            ConnectionKind::Local => Address::All,
            _ => self.address()?,
        };
        let method = self.method(kind)?;
        let mut rule = Rule {
            line,
            kind,
            databases,
            users,
            address,
            method,
            map: None,
            client_certificate: ClientCertificate::NotRequired,
        };
        for option in self.fields.iter().flatten() {
            rule.set_option(&option.text)
                .ok_or_else(|| HbaProblem::Option(option.text.clone()))?;
        }
        Ok(rule)
    }

    fn many(&mut self, what: &'static str) -> Result<&[Token], HbaProblem> {
        let (first, rest) = self.fields.split_first().ok_or(HbaProblem::Missing(what))?;
        self.fields = rest;
        Ok(first)
    }

    fn one(&mut self, what: &'static str) -> Result<&Token, HbaProblem> {
        match self.many(what)? {
            [token] => Ok(token),
            _ => Err(HbaProblem::Several(what)),
        }
    }

    fn address(&mut self) -> Result<Address, HbaProblem> {
        let text = self.one("address")?.text.clone();
        match text.as_str() {
            "all" => return Ok(Address::All),
            "samehost" | "samenet" => return Err(HbaProblem::Unsupported(format!("\"{text}\""))),
            _ => {}
        }
        let invalid = || HbaProblem::Address(text.clone());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.as_str(), None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            let is_name =
                address.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains(':');
            return Err(match is_name {
                true => HbaProblem::Unsupported(format!("the host name \"{text}\"")),
                false => invalid(),
            });
        };
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let mask = match prefix {
            Some(prefix) => {
                let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
                let length: u32 = prefix.parse().map_err(|_| invalid())?;
                if !digits || length > width {
                    return Err(invalid());
                }
                u128::MAX.checked_shl(width - length).unwrap_or(0)
            }
            None => {
                let mask = &self.one("mask")?.text;
                match mask.parse::<IpAddr>() {
                    Ok(parsed) if parsed.is_ipv4() == address.is_ipv4() => bits(parsed),
                    _ => return Err(HbaProblem::Mask(mask.clone())),
                }
            }
        };
        Ok(Address::Network { address, mask })
    }

    fn method(&mut self, kind: ConnectionKind) -> Result<Method, HbaProblem> {
        let name = &self.one("authentication method")?.text;
        let Some(method) = Method::parse(name) else {
            return Err(match name.as_str() {
                "gss" | "sspi" | "ident" | "ldap" | "radius" | "pam" | "bsd" | "oauth" => {
                    HbaProblem::Unsupported(format!("authentication method \"{name}\""))
                }
                _ => HbaProblem::Method(name.clone()),
            });
        };
        match (method, kind) {
            (Method::Cert, ConnectionKind::HostTls) | (Method::Peer, ConnectionKind::Local) => {
                Ok(method)
            }
            (Method::Cert, _) => Err(HbaProblem::Misplaced("cert", "needs \"hostssl\"")),
            (Method::Peer, _) => Err(HbaProblem::Misplaced("peer", "needs \"local\"")),
            _ => Ok(method),
        }
    }
}

impl Rule {
    fn set_option(&mut self, option: &str) -> Option<()> {
        let (name, value) = option.split_once('=')?;
        match (name, value) {
            ("map", "") => return None,
            ("map", map) if matches!(self.method, Method::Cert | Method::Peer) => {
                self.map = Some(map.to_owned());
            }
            ("clientcert", value) if self.kind == ConnectionKind::HostTls => {
                self.client_certificate = match value {
                    // `cert` always verifies the name; verify-ca beside it would say less.
                    "verify-ca" if self.method != Method::Cert => ClientCertificate::VerifyCa,
                    "verify-full" => ClientCertificate::VerifyFull,
                    _ => return None,
                };
            }
            _ => return None,
        }
        Some(())
    }
}

/// The values of a list field, those of its `@file`s in their place.
fn names<T>(
    field: &[Token],
    include: &mut Include<'_>,
    read: &dyn Fn(&Token) -> Result<T, HbaProblem>,
) -> Result<Vec<T>, HbaProblem> {
    let mut all = Vec::new();
    for token in field {
        let Some(file) = token.text.strip_prefix('@').filter(|_| !token.quoted) else {
            all.push(read(token)?);
            continue;
        };
        let text = include(file).map_err(|reason| HbaProblem::Include {
            file: file.to_owned(),
            reason,
        })?;
        for (_, content) in tokens::logical_lines(&text) {
            for token in fields(&content)?.iter().flatten() {
                if token.text.starts_with('@') && !token.quoted {
                    return Err(HbaProblem::Unsupported(
                        "an @file inside an @file".to_owned(),
                    ));
                }
                all.push(read(token)?);
            }
        }
    }
    Ok(all)
}

fn database_name(token: &Token) -> Result<DatabaseName, HbaProblem> {
    let named = || DatabaseName::Named(token.text.clone());
    if token.quoted {
        return Ok(named());
    }
    Ok(match token.text.as_str() {
        "all" => DatabaseName::All,
        "sameuser" => DatabaseName::SameUser,
        "replication" => DatabaseName::Replication,
        "samerole" | "samegroup" => return Err(unsupported(token)),
        text if text.starts_with('/') => return Err(unsupported(token)),
        _ => named(),
    })
}

fn user_name(token: &Token) -> Result<UserName, HbaProblem> {
    let named = || UserName::Named(token.text.clone());
    if token.quoted {
        return Ok(named());
    }
    Ok(match token.text.as_str() {
        "all" => UserName::All,
        text if text.starts_with(['+', '/']) => return Err(unsupported(token)),
        _ => named(),
    })
}

fn unsupported(token: &Token) -> HbaProblem {
    let what = match token.text.chars().next() {
        Some('+') => "role membership ",
        Some('/') => "the regular expression ",
        _ => "",
    };
    HbaProblem::Unsupported(format!("{what}\"{}\"", token.text))
}
