//! `pooler.toml.example`, made from the table of keys.
//!
//! Knows the layout of that file only. A line `#key = value` is a default that may be uncommented as it
//! is; a line `# text` is prose.

use std::fmt::Write as _;

use super::keys::{self, Key, Reload, Scope, Section};

const HEAD: &str = "\
# pgweir: every setting with its default. A commented setting shows the value it has anyway.
#
# Durations: \"200ms\", \"30s\", \"1h30m\"; a plain number is seconds. Sizes: \"64MB\"; a plain number is
# bytes. 0 switches a limit off. Every string may hold ${NAME} or ${NAME:-default} from the
# environment; relative paths start at this file's directory. More: docs/configuration.md.
#
# (restart) marks what a reload does not change.

[pgweir]
";

const POOL: &str = "
# Defaults of every pool. A key may be repeated in a database and in a user; the user's wins over the
# database's, and that over this one. Exceptions are marked (not per user), (not per database).
[pool]
";

/// The keys whose samples cannot stand beside another's.
const ALTERNATIVES: [&str; 2] = ["password_file", "passwords"];

/// The whole file.
pub(crate) fn text() -> String {
    let mut out = HEAD.to_owned();
    groups(&mut out, Section::Process);
    out.push_str(POOL);
    groups(&mut out, Section::Pool);

    out.push_str("\n# What clients may connect to. Also any key of [pool].\n#[databases.app]\n");
    samples(&mut out, Section::Database);
    out.push_str("# Each entry of `servers`:\n");
    for key in of(Section::Server) {
        let _ = writeln!(
            out,
            "#   {:<22} {}",
            format!("{} = {}", key.name, key.default),
            key.doc
        );
    }
    out.push_str("\n# Every database without an entry of its own.\n#[databases.\"*\"]\n");
    out.push_str("#servers = [{ host = \"/run/postgresql\" }]\n");

    out.push_str("\n# Who may connect. Also keys of [pool].\n#[users.alice]\n");
    samples(&mut out, Section::User);

    out.push_str(
        "\n# Other processes behind the same address: cancel requests find the right one.\n",
    );
    out.push_str("# [peers.2]\n");
    for key in of(Section::Peer) {
        let _ = writeln!(out, "# {} = {}", key.name, key.default);
    }
    out
}

fn of(section: Section) -> impl Iterator<Item = &'static Key> {
    keys::all().filter(move |key| key.section == section)
}

fn groups(out: &mut String, section: Section) {
    let mut group = "";
    for key in of(section) {
        if key.group != group {
            group = key.group;
            let _ = write!(out, "\n# == {group} ==\n");
        }
        let restart = if key.reload == Reload::Restart {
            " (restart)"
        } else {
            ""
        };
        let scope = match key.scope {
            Scope::NotUser => " (not per user)",
            Scope::NotDatabase => " (not per database)",
            Scope::Process | Scope::Anywhere => "",
        };
        let _ = write!(
            out,
            "# {}{restart}{scope}\n#{} = {}\n",
            key.doc, key.name, key.default
        );
    }
}

fn samples(out: &mut String, section: Section) {
    for key in of(section) {
        let space = if ALTERNATIVES.contains(&key.name) {
            " "
        } else {
            ""
        };
        let _ = write!(
            out,
            "# {}\n#{space}{} = {}\n",
            key.doc, key.name, key.default
        );
    }
}
