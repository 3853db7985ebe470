//! `postgres://` URLs: a configuration without a file.
//!
//! Knows libpq's URI form (manual section 32.1.1.2) and what a user who gives nothing else expects.
//! Invariants: no error quotes a URL, which may hold a password; what is not understood is refused or
//! told, never dropped in silence.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use super::{
    AuthOverrides, AuthType, Config, ConfigError, Database, Host, PoolOverrides, Role, Secret,
    Server, SslMode, SslNegotiation, User, check,
    error::nearest,
    file::{self, Draft, FALLBACK},
};

/// Parameters of a URL that mean something here.
const PARAMETERS: [&str; 11] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "connect_timeout",
];

/// One URL, read.
#[derive(Debug, Default, PartialEq, Eq)]
struct ServerUrl {
    hosts: Vec<(Host, u16)>,
    user: Option<String>,
    password: Option<Secret>,
    dbname: Option<String>,
    /// sslmode, sslnegotiation, sslrootcert, sslcert, sslkey, connect_timeout, as given.
    options: BTreeMap<&'static str, String>,
    /// Parameters that mean nothing here.
    ignored: Vec<String>,
}

/// See [`Config::from_urls`].
pub(crate) fn configuration(
    primary: &str,
    replicas: &[String],
    listen: Option<&str>,
) -> Result<Config, ConfigError> {
    let refused = |argument| move |why: String| ConfigError::Argument { argument, why };
    let main = parse(primary).map_err(refused("--primary"))?;
    let mut draft = Draft::default();
    let mut servers = servers(
        &main,
        if main.hosts.len() > 1 {
            Role::Auto
        } else {
            Role::Primary
        },
    );
    let mut ignored = main.ignored.clone();
    for replica in replicas {
        let replica = parse(replica).map_err(refused("--replica"))?;
        same_login(&main, &replica).map_err(refused("--replica"))?;
        servers.extend(self::servers(&replica, Role::Replica));
        ignored.extend(replica.ignored);
    }
    listen_on(listen.unwrap_or("127.0.0.1:6432"), &mut draft).map_err(refused("--listen"))?;
    options(&main, &mut draft).map_err(refused("--primary"))?;
    login(&main, &mut draft).map_err(refused("--primary"))?;
    for name in [FALLBACK].into_iter().chain(main.dbname.as_deref()) {
        draft
            .databases
            .insert(name.to_owned(), database(name, &servers));
    }
    if let Some(name) = main
        .dbname
        .as_deref()
        .filter(|name| file::CONSOLE_NAMES.contains(name))
    {
        return Err(refused("--primary")(format!(
            "\"{name}\" is the name of the console"
        )));
    }
    let findings = check::check(&draft);
    if let Some((_, fault)) = findings.faults.into_iter().next() {
        return Err(refused("--primary")(fault.to_string()));
    }
    let mut config = Config::assemble(draft, findings.tls);
    config.warnings = findings.warnings;
    ignored.sort();
    ignored.dedup();
    let told = |name| format!("the parameter {name} of the URL has no effect in pgweir");
    config.warnings.extend(ignored.into_iter().map(told));
    Ok(config)
}

fn servers(url: &ServerUrl, role: Role) -> Vec<Server> {
    let server = |(host, port): &(Host, u16)| Server {
        host: host.clone(),
        port: *port,
        role,
        weight: 1,
        zone: None,
    };
    url.hosts.iter().map(server).collect()
}

fn database(name: &str, servers: &[Server]) -> Database {
    Database {
        name: name.to_owned(),
        dbname: None,
        servers: servers.to_vec(),
        user: None,
        password: None,
        auth: AuthOverrides::default(),
        connect_query: None,
        is_fallback: name == FALLBACK,
        overrides: PoolOverrides::default(),
        settings: Arc::default(),
    }
}

/// A replica is the same database under the same login; what its URL leaves out is the primary's.
fn same_login(main: &ServerUrl, replica: &ServerUrl) -> Result<(), String> {
    let differs = |name, differs: bool| if differs { Err(name) } else { Ok(()) };
    let option_differs = |name: &&str| {
        replica
            .options
            .get(*name)
            .is_some_and(|value| main.options.get(*name) != Some(value))
    };
    differs("user", replica.user.is_some() && replica.user != main.user)
        .and_then(|()| {
            differs(
                "password",
                replica.password.is_some() && replica.password != main.password,
            )
        })
        .and_then(|()| {
            differs(
                "database",
                replica.dbname.is_some() && replica.dbname != main.dbname,
            )
        })
        .and_then(
            |()| match PARAMETERS.iter().find(|name| option_differs(name)) {
                Some(name) => Err(*name),
                None => Ok(()),
            },
        )
        .map_err(|what| {
            format!("has another {what} than --primary; a configuration file can say that")
        })
}

fn login(url: &ServerUrl, draft: &mut Draft) -> Result<(), String> {
    if url.password.is_none() {
        if check::listens_beyond_loopback(&draft.process) {
            return Err(
                "has no password, so everybody who reaches --listen would be let in: \
                        give it one, listen on 127.0.0.1, or use a configuration file"
                    .to_owned(),
            );
        }
        draft.process.auth_type = AuthType::Trust;
    }
    let Some(name) = &url.user else {
        return match url.password {
            Some(_) => Err("has a password but no user".to_owned()),
            None => Ok(()),
        };
    };
    draft.process.admin_users = vec![name.clone()];
    let user = User {
        name: name.clone(),
        passwords: url.password.iter().cloned().collect(),
        overrides: PoolOverrides::default(),
    };
    draft.users.insert(name.clone(), user);
    Ok(())
}

fn options(url: &ServerUrl, draft: &mut Draft) -> Result<(), String> {
    let tls = &mut draft.process.server_tls;
    for (name, value) in &url.options {
        match *name {
            "sslmode" => {
                tls.sslmode = SslMode::from_word(value).ok_or_else(|| {
                    format!("sslmode must be one of {}", SslMode::WORDS.join(", "))
                })?;
            }
            "sslnegotiation" => {
                tls.negotiation = SslNegotiation::from_word(value).ok_or_else(|| {
                    let words = SslNegotiation::WORDS.join(", ");
                    format!("sslnegotiation must be one of {words}")
                })?;
            }
            "sslrootcert" => tls.ca_file = (value != "system").then(|| value.into()),
            "sslcert" => tls.cert_file = Some(value.into()),
            "sslkey" => tls.key_file = Some(value.into()),
            _ => {
                let seconds: u64 = value.parse().map_err(|_| "connect_timeout is in seconds")?;
                if seconds > 0 {
                    draft.pool.server_connect_timeout = Duration::from_secs(seconds.min(86_400));
                }
            }
        }
    }
    Ok(())
}

/// `address:port`, `address`, `:port` or `port`.
fn listen_on(text: &str, draft: &mut Draft) -> Result<(), String> {
    let form = || "must be address:port, such as 127.0.0.1:6432, [::1]:6432 or *:6432".to_owned();
    let (address, port) = if text.parse::<IpAddr>().is_ok() {
        (text, None)
    } else if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(form)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| form())?;
        (
            address,
            if port.is_empty() {
                None
            } else {
                Some(port.strip_prefix(':').ok_or_else(form)?)
            },
        )
    } else if let Some((address, port)) = text.rsplit_once(':') {
        (address, Some(port))
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        ("", Some(text))
    } else {
        (text, None)
    };
    if address.contains(':') && address.parse::<IpAddr>().is_err() {
        return Err(form());
    }
    if !address.is_empty() {
        draft.process.listen_addr = vec![address.to_owned()];
    }
    if let Some(port) = port {
        draft.process.listen_port = port.parse().map_err(|_| form())?;
    }
    Ok(())
}

/// Reads `postgres://[user[:password]@][host][:port][,…][/dbname][?name=value&…]`.
fn parse(url: &str) -> Result<ServerUrl, String> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or("must be a URL such as postgres://user:password@host:5432/database")?;
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(authority_end);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let mut read = ServerUrl::default();
    let (mut names, mut ports) = host_list(hosts)?;
    if let Some(login) = login {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        read.user = filled(decoded(user)?);
        read.password = filled(decoded(password)?).map(|text| Secret::new(&text));
    }
    read.dbname = filled(decoded(path.strip_prefix('/').unwrap_or(path))?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or("has a parameter without a value")?;
        let (name, value) = (decoded(name)?, decoded(value)?);
        match PARAMETERS.into_iter().find(|known| *known == name) {
            Some("host") => names = value.split(',').map(str::to_owned).collect(),
            Some("port") => ports = value.split(',').map(str::to_owned).collect(),
            Some("user") => read.user = filled(value),
            Some("password") => read.password = filled(value).map(|text| Secret::new(&text)),
            Some("dbname") => read.dbname = filled(value),
            Some(option) => {
                read.options.insert(option, value);
            }
            None => match nearest(&name, PARAMETERS) {
                Some(near) => {
                    return Err(format!("has the parameter {name}; did you mean {near}?"));
                }
                None => read.ignored.push(name),
            },
        }
    }
    read.hosts = paired(&names, &ports)?;
    Ok(read)
}

/// `host:port,[v6]:port,…` as names and ports; a port that is left out is empty.
fn host_list(text: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let mut lists = (Vec::new(), Vec::new());
    for part in text.split(',') {
        let bracket = part.rfind(']').map_or(0, |at| at + 1);
        let (name, port) = match part[bracket..].split_once(':') {
            Some((between, port)) => (&part[..bracket + between.len()], port),
            None => (part, ""),
        };
        lists.0.push(decoded(name)?);
        lists.1.push(port.to_owned());
    }
    Ok(lists)
}

fn paired(names: &[String], ports: &[String]) -> Result<Vec<(Host, u16)>, String> {
    let port_of = |index: usize| -> Result<u16, String> {
        let text = if ports.len() == 1 {
            ports.first()
        } else {
            ports.get(index)
        };
        match text.map(String::as_str) {
            None => Err("has fewer ports than hosts".to_owned()),
            Some("") => Ok(5432),
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| "has a port that is not from 1 to 65535".to_owned()),
        }
    };
    let hosts = names.iter().enumerate().map(|(index, name)| {
        let name = if name.is_empty() { "localhost" } else { name };
        let host = file::host(name).map_err(|_| "has a host that is no host name".to_owned())?;
        Ok((host, port_of(index)?))
    });
    hosts.collect()
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, String> {
    let wrong =
        || "has a % that is not followed by two hexadecimal digits of UTF-8 text".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2).ok_or_else(wrong)?;
        let digit = |at: usize| {
            char::from(digits[at])
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(wrong());
        };
        bytes.push(high << 4 | low);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
