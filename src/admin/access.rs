//! Who may run which command.
//!
//! Whatever is a [`Control`](super::command::Control) is for `admin_users` only; what is no command at all
//! is nobody's.

use super::command::Command;

/// What a user of the console may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Look.
    Stats,
}

impl Role {
    /// Whether this role may run `command`.
    pub(super) fn may(self, command: &Command) -> bool {
        match self {
            Self::Admin => true,
            Self::Stats => match command {
                Command::Empty
                | Command::Show(_)
                | Command::Explain(_)
                | Command::Transaction(_)
                | Command::IgnoredSet => true,
                Command::Control(_) => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::command::parse, *};

    #[test]
    fn stats_users_look_and_admin_users_do_everything() {
        for (text, stats) in [
            ("", true),
            ("SHOW POOLS", true),
            ("SHOW CONFIG", true),
            ("SHOW PINS", true),
            ("EXPLAIN ROUTE DELETE FROM t", true),
            ("SELECT stats", true),
            ("BEGIN", true),
            ("ROLLBACK", true),
            ("SET client_encoding = 'UTF8'", true),
            ("SET Extra_Float_Digits = 3", true),
            ("SET application_name = 'x'", true),
            ("SET max_client_conn = 5", false),
            ("PAUSE", false),
            ("PAUSE app", false),
            ("RESUME", false),
            ("KILL", false),
            ("KILL app", false),
            ("KILL_CLIENT 7", false),
            ("RECONNECT", false),
            ("WAIT_CLOSE", false),
            ("DISABLE app", false),
            ("ENABLE app", false),
            ("SUSPEND", false),
            ("RELOAD", false),
            ("SHUTDOWN", false),
            ("SHUTDOWN WAIT_FOR_SERVERS", false),
            ("SHUTDOWN WAIT_FOR_CLIENTS", false),
        ] {
            let command = parse(text).expect(text);
            assert_eq!(Role::Stats.may(&command), stats, "{text}");
            assert!(Role::Admin.may(&command), "{text}");
        }
    }
}
