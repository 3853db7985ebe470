//! As whom a pool logs in to its servers, and with what.
//!
//! Knows the configuration and what a client has proved; opens nothing.

use crate::auth::{Credentials, Secret};
use crate::config::{self, Database, User};

/// The credentials for servers of `database` on behalf of a client.
///
/// In this order: the database's forced user with the password beside it; else a password or md5 hash that the configuration has for
/// the user; else what the client itself has proved (its password, or the keys of its SCRAM login). A configured SCRAM verifier alone
/// recognises clients and logs in nowhere.
///
/// `user` is the configuration's entry of [`server_user`]; `proved` counts only for the client's own name.
pub fn server_credentials(
    database: &Database,
    user: Option<&User>,
    proved: &Credentials,
) -> Credentials {
    let forced = database.user.is_some();
    let own = database.password.iter().filter(|_| forced);
    let configured = user.into_iter().flat_map(|user| &user.passwords);
    usable(own.chain(configured)).unwrap_or_else(|| match forced {
        true => Credentials::None,
        false => proved.clone(),
    })
}

/// The credentials of a user who asks servers something on our own behalf: what the configuration has for that name, whatever a
/// database forces on its clients.
pub fn own_credentials(user: Option<&User>) -> Credentials {
    usable(user.into_iter().flat_map(|user| &user.passwords)).unwrap_or(Credentials::None)
}

/// The first that logs in to a server.
fn usable<'a>(mut secrets: impl Iterator<Item = &'a config::Secret>) -> Option<Credentials> {
    secrets.find_map(|secret| match Secret::parse(secret.expose()) {
        Ok(Secret::Plain(password)) => Some(Credentials::Password(password)),
        Ok(Secret::Md5(hash)) => Some(Credentials::Md5(hash)),
        Ok(Secret::Scram(_)) | Err(_) => None,
    })
}

/// The name to log in to servers of `database` with, for a client that is `client`.
pub fn server_user<'a>(database: &'a Database, client: &'a str) -> &'a str {
    database.user.as_deref().unwrap_or(client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn config() -> Config {
        let text = r#"
            [databases.app]
            servers = [{ host = "127.0.0.1", port = 5432 }]
            [databases.forced]
            servers = [{ host = "127.0.0.1", port = 5432 }]
            user = "service"
            password = "beside"
            [databases.forced_without]
            servers = [{ host = "127.0.0.1", port = 5432 }]
            user = "service"
            [users.alice]
            password = "hers"
            [users.service]
            password = "its"
            [users.verified]
            password = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        "#;
        Config::parse(text, Path::new(""), &|_| None).unwrap_or_else(|error| panic!("{error}"))
    }

    fn password(database: &str, client: &str) -> Option<&'static str> {
        let config = config();
        let database = config.database(database).expect("it is configured");
        let user = config.user(server_user(&database, client));
        let proved = Credentials::Password("proved".into());
        match server_credentials(&database, user.as_deref(), &proved) {
            Credentials::Password(password) => ["hers", "its", "beside", "proved"]
                .into_iter()
                .find(|known| password.matches(known.as_bytes())),
            _ => None,
        }
    }

    #[test]
    fn the_most_specific_credentials_win() {
        assert_eq!(password("app", "alice"), Some("hers"));
        assert_eq!(password("app", "verified"), Some("proved"));
        assert_eq!(password("app", "unknown"), Some("proved"));
        assert_eq!(password("forced", "alice"), Some("beside"));
        assert_eq!(password("forced_without", "alice"), Some("its"));
    }

    #[test]
    fn a_forced_user_never_gets_what_another_has_proved() {
        let config = config();
        let database = config.database("forced_without").expect("it is configured");
        let proved = Credentials::Password("proved".into());
        let credentials = server_credentials(&database, None, &proved);
        assert!(matches!(credentials, Credentials::None));
    }

    #[test]
    fn who_asks_on_our_behalf_has_a_password_of_its_own() {
        let config = config();
        let own = own_credentials(config.user("service").as_deref());
        assert!(matches!(own, Credentials::Password(own) if own.matches(b"its")));
        assert!(matches!(own_credentials(None), Credentials::None));
    }
}
