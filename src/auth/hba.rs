//! Host-based authentication: `pg_hba.conf`, as PgBouncer's `auth_hba_file` takes it.
//!
//! The grammar is PostgreSQL's (manual, "The pg_hba.conf File"): who (type, database, user, address) and how (method, options). The first
//! rule that matches decides, and no match is a refusal. Pure: an `@file` is read by the caller's function.
//!
//! What PostgreSQL knows and a pooler cannot judge (role membership `+name`, `samerole`, host names, `samenet`, regular
//! expressions, foreign methods) is refused with its line: a rule that is quietly skipped lets the wrong one decide.

use std::net::{IpAddr, Ipv6Addr};

mod line;
pub(super) mod tokens;

/// A file that was read whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Line in the file, counted from 1.
    pub line: usize,
    kind: ConnectionKind,
    databases: Vec<DatabaseName>,
    users: Vec<UserName>,
    address: Address,
    /// How the client must prove itself.
    pub method: Method,
    /// `map=`: which ident map `cert` and `peer` use.
    pub map: Option<String>,
    /// `clientcert=`: a certificate that is asked for besides the method.
    pub client_certificate: ClientCertificate,
}

/// The first field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionKind {
    Local,
    Host,
    HostTls,
    HostNoTls,
    /// GSSAPI encryption, which we never have.
    HostGss,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum DatabaseName {
    All,
    SameUser,
    /// Physical replication, which `all` does not include.
    Replication,
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum UserName {
    All,
    Named(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address {
    All,
    Network { address: IpAddr, mask: u128 },
}

/// How a client must prove itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// It need not.
    Trust,
    /// It cannot.
    Reject,
    /// md5, or SCRAM for users with SCRAM secrets.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// The password in clear.
    Password,
    /// By the name in its TLS certificate.
    Cert,
    /// By the operating system's user at the other end of a Unix socket.
    Peer,
}

impl Method {
    /// By its name in the file; `plain` is PgBouncer's for `password`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "trust" => Self::Trust,
            "reject" => Self::Reject,
            "md5" => Self::Md5,
            "scram-sha-256" => Self::ScramSha256,
            "password" | "plain" => Self::Password,
            "cert" => Self::Cert,
            "peer" => Self::Peer,
            _ => return None,
        })
    }

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Reject => "reject",
            Self::Md5 => "md5",
            Self::ScramSha256 => "scram-sha-256",
            Self::Password => "password",
            Self::Cert => "cert",
            Self::Peer => "peer",
        }
    }
}

/// The option `clientcert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificate {
    /// None is asked for.
    #[default]
    NotRequired,
    /// `verify-ca`: one of our authority.
    VerifyCa,
    /// `verify-full`: one that also names the user.
    VerifyFull,
}

/// What a connection looks like to the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection<'a> {
    /// Where it comes from.
    pub origin: Origin,
    /// The database of the startup packet.
    pub database: &'a str,
    /// The user of the startup packet.
    pub user: &'a str,
    /// `replication=true`: physical replication, of no database. (`replication=database` counts as an ordinary connection.)
    pub physical_replication: bool,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Unix socket.
    Local,
    /// TCP; an IPv4 address mapped into IPv6 counts as IPv4.
    Tcp {
        /// The client's address.
        address: IpAddr,
        /// Whether TLS is up.
        tls: bool,
    },
}

/// Why a file is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct HbaError {
    /// Counted from 1; of a continued line, its first.
    pub line: usize,
    /// What is wrong.
    pub problem: HbaProblem,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HbaProblem {
    /// A quote without its end.
    #[error("unterminated quoted string")]
    Quote,
    /// The first field.
    #[error(
        "invalid connection type \"{0}\" (local, host, hostssl, hostnossl, hostgssenc, hostnogssenc)"
    )]
    Kind(String),
    /// The line ends too early.
    #[error("the {0} is missing")]
    Missing(&'static str),
    /// A field with several values where one is due.
    #[error("the {0} must be one value")]
    Several(&'static str),
    /// What PostgreSQL knows and we do not.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// Not an address.
    #[error("invalid address \"{0}\" (all, or an IP address with /prefix or mask)")]
    Address(String),
    /// Not a mask of that address.
    #[error("invalid mask \"{0}\"")]
    Mask(String),
    /// Not a method.
    #[error("unknown authentication method \"{0}\"")]
    Method(String),
    /// A method that cannot work there.
    #[error("method \"{0}\" {1}")]
    Misplaced(&'static str, &'static str),
    /// Not an option, or not for this method.
    #[error("invalid option \"{0}\"")]
    Option(String),
    /// `@file` could not be read.
    #[error("cannot read \"{file}\": {reason}")]
    Include {
        /// As written.
        file: String,
        /// The caller's reason.
        reason: String,
    },
}

impl Rules {
    /// Reads a file. `include` yields the text of an `@file` in a list of names.
    pub fn parse(
        text: &str,
        include: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, HbaError> {
        let mut rules = Vec::new();
        for (line, content) in tokens::logical_lines(text) {
            let at = |problem| HbaError { line, problem };
            let fields = tokens::fields(&content).map_err(at)?;
            if !fields.is_empty() {
                let rule = line::rule(line, &fields, include).map_err(at)?;
                rules.push(rule);
            }
        }
        Ok(Self(rules))
    }

    /// The rule that decides about this connection; `None` refuses it.
    pub fn first_match(&self, connection: &Connection<'_>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.matches(connection))
    }

    /// All rules in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }
}

impl Rule {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        self.matches_origin(connection.origin)
            && self.databases.iter().any(|name| match name {
                DatabaseName::Replication => connection.physical_replication,
                _ if connection.physical_replication => false,
                DatabaseName::All => true,
                DatabaseName::SameUser => connection.database == connection.user,
                DatabaseName::Named(name) => name == connection.database,
            })
            && self.users.iter().any(|name| match name {
                UserName::All => true,
                UserName::Named(name) => name == connection.user,
            })
    }

    fn matches_origin(&self, origin: Origin) -> bool {
        match (self.kind, origin) {
            (ConnectionKind::Local, Origin::Local) => true,
            (ConnectionKind::Host, Origin::Tcp { address, .. })
            | (ConnectionKind::HostTls, Origin::Tcp { address, tls: true })
            | (
                ConnectionKind::HostNoTls,
                Origin::Tcp {
                    address,
                    tls: false,
                },
            ) => self.address.contains(address),
            _ => false,
        }
    }
}

impl Address {
    fn contains(self, client: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Network { address, mask } => {
                let client = client.to_canonical();
                client.is_ipv4() == address.is_ipv4() && bits(client) & mask == bits(address) & mask
            }
        }
    }
}

/// An address as a number, an IPv4 one in the low 32 bits.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

#[cfg(test)]
#[path = "hba/tests.rs"]
mod tests;
