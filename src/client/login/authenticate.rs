//! From a StartupMessage to the verdict: which proof is asked for, who knows the user's secrets, and the exchange itself.
//!
//! Unknown users, and users of unknown databases, take the same path as everybody else and fail like a wrong password.

use super::LoginContext;
use super::failure::LoginFailure;
use super::startup::Hello;
use super::wire::Wire;
use crate::auth::hba::{self, ClientCertificate, Method, Origin};
use crate::auth::{
    AuthenticationRequest, ClientExchange, ClientExchangeSetup, Credentials, Denied, Entropy,
    MockSecret, PasswordMethod, Secret, Step,
};
use crate::client::auth_query::{AnswerTtl, AuthQueryFailure};
use crate::config::{AuthType, Database};
use crate::net::{Peer, common_name};
use crate::protocol::encode::{self, Authentication};
use crate::protocol::startup::Replication;
use crate::server::Found;
use std::sync::Arc;
use tokio::time::timeout;

/// A client that is who it says.
pub(super) struct Proof {
    pub(super) method: Method,
    /// What logs in to a server in its name.
    pub(super) credentials: Credentials,
    /// AuthenticationOk and what precedes it, not sent yet.
    pub(super) owed: Vec<u8>,
}

/// What a client must prove.
struct Demand {
    method: Method,
    map: Option<String>,
    certificate: ClientCertificate,
}

/// `database` is `None` for the console and for what is not configured. `greeting` goes out with the first request.
pub(super) async fn authenticate(
    wire: &mut Wire,
    context: &LoginContext<'_>,
    hello: &Hello,
    database: Option<&Database>,
    greeting: Vec<u8>,
) -> Result<Proof, LoginFailure> {
    let demand = demand(wire, context, hello)?;
    check_certificate(wire, context, hello, &demand)?;
    let password_method = match demand.method {
        Method::Trust => None,
        Method::Reject => unreachable!("a rule that rejects is an error"),
        // The certificate has been checked: it was demanded.
        Method::Cert => None,
        Method::Peer => {
            check_peer(context, hello, demand.map.as_deref()).await?;
            None
        }
        Method::Password => Some(PasswordMethod::Plain),
        Method::Md5 => Some(PasswordMethod::Md5),
        Method::ScramSha256 => Some(PasswordMethod::ScramSha256),
    };
    let method = demand.method;
    let (mut owed, credentials) = match password_method {
        None => (greeting, Credentials::None),
        Some(method) => exchange(wire, context, hello, database, (method, greeting)).await?,
    };
    encode::authentication(&mut owed, Authentication::Ok);
    Ok(Proof {
        method,
        credentials,
        owed,
    })
}

fn demand(wire: &Wire, context: &LoginContext<'_>, hello: &Hello) -> Result<Demand, LoginFailure> {
    let plain = |method| Demand {
        method,
        map: None,
        certificate: ClientCertificate::NotRequired,
    };
    Ok(match context.config.process.auth_type {
        AuthType::Trust => plain(Method::Trust),
        AuthType::Plain => plain(Method::Password),
        AuthType::Md5 => plain(Method::Md5),
        AuthType::ScramSha256 => plain(Method::ScramSha256),
        AuthType::Cert => plain(Method::Cert),
        AuthType::Hba => {
            let tls = wire.is_encrypted();
            let origin = match context.peer {
                Peer::Unix { .. } => Origin::Local,
                Peer::Tcp(address) => Origin::Tcp {
                    address: address.ip(),
                    tls,
                },
            };
            let physical = hello.replication == Some(Replication::Physical);
            let rule = context.hba.and_then(|rules| {
                rules.first_match(&hba::Connection {
                    origin,
                    database: &hello.database,
                    user: &hello.user,
                    physical_replication: physical,
                })
            });
            match rule {
                None => return Err(LoginFailure::NoRule(who(context.peer, hello, tls))),
                Some(rule) if rule.method == Method::Reject => {
                    return Err(LoginFailure::Rejected {
                        line: rule.line,
                        who: who(context.peer, hello, tls),
                    });
                }
                Some(rule) => Demand {
                    method: rule.method,
                    map: rule.map.clone(),
                    certificate: rule.client_certificate,
                },
            }
        }
    })
}

/// As PostgreSQL describes a connection in the same error.
fn who(peer: Peer, hello: &Hello, tls: bool) -> String {
    let from = match peer {
        Peer::Unix { .. } => "host \"[local]\"".to_owned(),
        Peer::Tcp(address) => format!("host \"{}\"", address.ip().to_canonical()),
    };
    let encryption = match tls {
        true => "SSL encryption",
        false => "no encryption",
    };
    format!(
        "{from}, user \"{}\", database \"{}\", {encryption}",
        hello.user, hello.database
    )
}

fn check_certificate(
    wire: &Wire,
    context: &LoginContext<'_>,
    hello: &Hello,
    demand: &Demand,
) -> Result<(), LoginFailure> {
    if demand.method != Method::Cert && demand.certificate == ClientCertificate::NotRequired {
        return Ok(());
    }
    let certificate = wire.stream().and_then(|stream| stream.peer_certificate());
    let certificate = certificate.ok_or(LoginFailure::NoCertificate)?;
    let name = common_name(certificate);
    let allowed = match (&name, demand.method, demand.certificate) {
        (_, method, ClientCertificate::VerifyCa) if method != Method::Cert => true,
        (Some(name), Method::Cert, _) => {
            context
                .ident
                .allows(demand.map.as_deref(), name, &hello.user)
        }
        (Some(name), ..) => *name == hello.user,
        (None, ..) => false,
    };
    match allowed {
        true => Ok(()),
        false => Err(LoginFailure::WrongCertificate {
            user: hello.user.clone(),
            name,
            rule: demand.certificate,
        }),
    }
}

async fn check_peer(
    context: &LoginContext<'_>,
    hello: &Hello,
    map: Option<&str>,
) -> Result<(), LoginFailure> {
    let Peer::Unix { uid } = context.peer else {
        unreachable!("peer is a method of local rules only");
    };
    // Without C code there is no getpwuid(); users of other sources than this file cannot be named.
    let accounts = tokio::fs::read_to_string("/etc/passwd")
        .await
        .unwrap_or_default();
    let allowed = account_name(&accounts, uid)
        .is_some_and(|name| context.ident.allows(map, name, &hello.user));
    match allowed {
        true => Ok(()),
        false => Err(LoginFailure::WrongPeer {
            user: hello.user.clone(),
            uid,
        }),
    }
}

/// The name of a user id in the text of `/etc/passwd`.
fn account_name(accounts: &str, uid: u32) -> Option<&str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let id = fields.nth(1)?.parse::<u32>().ok()?;
        (id == uid).then_some(name)
    })
}

async fn exchange(
    wire: &mut Wire,
    context: &LoginContext<'_>,
    hello: &Hello,
    database: Option<&Database>,
    (method, greeting): (PasswordMethod, Vec<u8>),
) -> Result<(Vec<u8>, Credentials), LoginFailure> {
    let (secrets, was_asked) = secrets(wire, context, hello, database).await?;
    let mut entropy = Entropy([0; Entropy::LEN]);
    getrandom::fill(&mut entropy.0).map_err(LoginFailure::Random)?;
    let iterations = context.config.process.scram_iterations;
    let mut exchange = ClientExchange::new(ClientExchangeSetup {
        method,
        user: hello.user.clone(),
        secrets,
        mock: MockSecret::new(context.mock_key, iterations),
        tls_end_point: wire.stream().and_then(|stream| stream.server_end_point()),
        entropy,
        max_iterations: context.max_iterations.max(iterations),
    });
    let mut out = greeting;
    let mut step = exchange.start();
    loop {
        step = match step {
            Step::Send(request) => {
                request.encode(&mut out);
                wire.send(&out).await?;
                out.clear();
                exchange.on_message(&wire.password().await?)
            }
            Step::NeedKdf(request) => {
                let derive = context.derivations.derive(request);
                exchange.on_keys(&wire.within(derive).await?)
            }
            Step::Done { last, proved } => {
                if let Some(last @ AuthenticationRequest::SaslFinal(_)) = last {
                    last.encode(&mut out);
                }
                return Ok((out, proved));
            }
            Step::Denied(denied) => {
                if let (true, Denied::Password { .. }) = (was_asked, &denied) {
                    // The secret may have been changed since it was asked for.
                    context.answers.forget(&hello.database, &hello.user);
                }
                return Err(LoginFailure::Denied(denied));
            }
        };
    }
}

/// The user's secrets, and whether a server was asked for them.
async fn secrets(
    wire: &Wire,
    context: &LoginContext<'_>,
    hello: &Hello,
    database: Option<&Database>,
) -> Result<(Arc<[Secret]>, bool), LoginFailure> {
    let parse = |text: &str| {
        Secret::parse(text)
            .inspect_err(|error| tracing::warn!(user = hello.user, %error, "a secret is unusable"))
            .ok()
    };
    if let Some(user) = context.config.user(&hello.user)
        && !user.passwords.is_empty()
    {
        let secrets = user.passwords.iter();
        let secrets = secrets
            .filter_map(|secret| parse(secret.expose()))
            .collect();
        return Ok((secrets, false));
    }
    let question = database.and_then(|database| context.config.auth_query(database));
    let (Some(question), Some(source)) = (question, context.secret_source) else {
        return Ok((Arc::new([]), false));
    };
    let process = &context.config.process;
    let limit = process.auth_query_timeout;
    let ask = async {
        let asked = timeout(limit, source.ask(&question, &hello.user)).await;
        asked.unwrap_or(Err(AuthQueryFailure::Timeout(limit)))
    };
    let ttl = AnswerTtl {
        found: process.auth_query_cache_ttl,
        missing: process.auth_query_negative_ttl,
    };
    let find = context.answers.find(&hello.database, &hello.user, ttl, ask);
    match wire.within(find).await? {
        Ok(Found::Secret(text)) => Ok((parse(text.reveal()).into_iter().collect(), true)),
        Ok(Found::NoSuchUser | Found::NoPassword) => Ok((Arc::new([]), true)),
        Err(cause) => Err(LoginFailure::AuthQuery {
            user: hello.user.clone(),
            cause,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::account_name;

    #[test]
    fn accounts_by_id() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\n\nbroken\n:x:7:\nweb:x:33:33::/:\nx:y:z\n";
        assert_eq!(account_name(accounts, 0), Some("root"));
        assert_eq!(account_name(accounts, 33), Some("web"));
        assert_eq!(account_name(accounts, 7), None, "a name is needed");
        assert_eq!(account_name(accounts, 1), None);
    }
}
