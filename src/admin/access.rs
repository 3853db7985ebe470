//! Who may run which command.
//!
//! Whatever is a [`Control`](super::command::Control) is for `admin_users` only; what is no command at all
//! is nobody's.

use super::command::Command;
use crate::config::Process;

/// What a user of the console may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Look.
    Stats,
}

impl Role {
    /// What `admin_users` and `stats_users` allow `user`; `None` if it is in neither.
    pub fn of(process: &Process, user: &str) -> Option<Self> {
        let among = |users: &[String]| users.iter().any(|name| name == user);
        if among(&process.admin_users) {
            Some(Self::Admin)
        } else if among(&process.stats_users) {
            Some(Self::Stats)
        } else {
            None
        }
    }

    /// Whether this role may run `command`.
    pub(super) fn may(self, command: &Command) -> bool {
        match self {
            Self::Admin => true,
            Self::Stats => match command {
                Command::Empty
                | Command::Show(_)
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

    #[test]
    fn who_is_in_neither_list_does_not_come_in() {
        let process = Process {
            admin_users: vec!["root".to_owned(), "both".to_owned()],
            stats_users: vec!["monitor".to_owned(), "both".to_owned()],
            ..Process::default()
        };
        assert_eq!(Role::of(&process, "root"), Some(Role::Admin));
        assert_eq!(Role::of(&process, "both"), Some(Role::Admin));
        assert_eq!(Role::of(&process, "monitor"), Some(Role::Stats));
        assert_eq!(Role::of(&process, "Root"), None);
        assert_eq!(Role::of(&process, ""), None);
    }
}
