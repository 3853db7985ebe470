//! Configurations that cannot be served: one clear sentence, and exit status 1.

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::support::{self, Pgweir, PgweirBuilder};

/// Runs the command to its end, which must not be long in coming.
fn pgweir(arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_pgweir")])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

/// Neither served nor checked: the same sentence, which contains all these words.
fn refused(arguments: [&[&str]; 2], words: &[&str]) {
    let sentences = arguments.map(|arguments| {
        let output = pgweir(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        let sentence = sentence(text(&output.stderr)).to_owned();
        for word in words {
            assert!(
                sentence.contains(word),
                "{arguments:?} does not say {word}: {sentence}"
            );
        }
        sentence
    });
    assert_eq!(sentences[0], sentences[1]);
}

/// What is said behind the warnings.
fn sentence(stderr: &str) -> &str {
    let start = stderr
        .find("pgweir: ")
        .unwrap_or_else(|| panic!("no sentence: {stderr}"));
    let (before, sentence) = stderr.split_at(start);
    let is_warning = |line: &str| line.contains(" WARN ") || line.starts_with("warning: ");
    assert!(before.lines().all(is_warning), "{stderr}");
    assert!(
        sentence.lines().count() <= 2 && !sentence.contains("panicked"),
        "{stderr}"
    );
    sentence
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn refuses(&self, toml: &str, words: &[&str]) {
        let path = self.write("pooler.toml", toml);
        refused([&["--config", &path], &["check", "--config", &path]], words);
    }
}

#[test]
fn files_that_cannot_be_read() {
    let files = Files::new();
    for (path, words) in [
        (files.path("missing.toml"), ["missing.toml", "No such file"]),
        (
            files.path("missing/pooler.toml"),
            ["missing/pooler.toml", "No such file"],
        ),
        (files.path(""), ["cannot read", "directory"]),
        (
            files.write("bytes.toml", b"[pgweir]\n\xff\xfe"),
            ["bytes.toml", "UTF-8"],
        ),
    ] {
        refused(
            [&["--config", &path], &["check", "--config", &path]],
            &words,
        );
    }
}

#[test]
fn configurations_that_are_wrong_say_where_and_what_would_be_right() {
    let files = Files::new();
    let server = "[databases.app]\nservers = [{ host = \"127.0.0.1\" }]\n";
    for (toml, words) in [
        ("[pgweir", &["pooler.toml:1:8"][..]),
        (
            &format!("[pgweir]\nlisten_prot = 6432\n{server}"),
            &["listen_prot", "listen_port", "2"],
        ),
        (
            &format!("[pgweir]\nlisten_port = \"x\"\n{server}"),
            &["listen_port", "2"],
        ),
        (
            &format!("[pgweir]\nlisten_port = 65536\n{server}"),
            &["listen_port"],
        ),
        (
            &format!("[pool]\npool_mode = \"transactions\"\n{server}"),
            &["pool_mode", "transaction", "2"],
        ),
        (
            &format!("[pool]\nquery_wait_timeout = \"2 parsecs\"\n{server}"),
            &["query_wait_timeout", "2 parsecs"],
        ),
        (
            &format!("[pool]\ndefault_pool_size = -1\n{server}"),
            &["default_pool_size"],
        ),
        (
            &format!("[pool]\ndefault_pool_size = 0\n{server}"),
            &["default_pool_size"],
        ),
        (&format!("[polo]\n{server}"), &["polo", "pool"]),
        ("[databases.app]\nservers = []\n", &["servers"]),
        (
            &format!("{server}[users.alice]\npassword = \"${{NO_SUCH_VARIABLE_OF_A_TEST}}\"\n"),
            &["NO_SUCH_VARIABLE_OF_A_TEST"],
        ),
        (
            &format!("{server}[users.alice]\npassword_file = \"no_such_file\"\n"),
            &["no_such_file"],
        ),
        (
            &format!("[pgweir]\nlog_level = \"pgweir=loud\"\n{server}"),
            &["log_level", "loud"],
        ),
    ] {
        files.refuses(toml, words);
    }
}

#[test]
fn files_about_who_may_connect_that_are_wrong() {
    let files = Files::new();
    let server = "[databases.app]\nservers = [{ host = \"127.0.0.1\" }]\n";
    let authority = support::tls::Authority::new();
    let (one, other) = (
        authority.server(&["localhost"]),
        authority.server(&["localhost"]),
    );
    let cert = files.write("cert.pem", &one.certificate);
    let key = files.write("key.pem", &one.key);
    let other_key = files.write("other_key.pem", &other.key);
    let garbage = files.write(
        "garbage.pem",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    );
    let empty = files.write("empty.pem", "");
    let tls = |cert: &str, key: &str| {
        format!(
            "[pgweir]\nclient_tls_sslmode = \"require\"\nclient_tls_cert_file = \"{cert}\"\n\
             client_tls_key_file = \"{key}\"\n{server}"
        )
    };
    files.refuses(&tls("missing.pem", &key), &["missing.pem", "No such file"]);
    files.refuses(&tls(&cert, "missing.key"), &["missing.key", "No such file"]);
    files.refuses(&tls(&garbage, &key), &["garbage.pem"]);
    files.refuses(&tls(&empty, &key), &["empty.pem"]);
    files.refuses(&tls(&cert, &garbage), &["garbage.pem"]);
    files.refuses(&tls(&cert, &other_key), &["other_key.pem"]);
    let without = format!("[pgweir]\nclient_tls_sslmode = \"require\"\n{server}");
    files.refuses(&without, &["client_tls_sslmode", "client_tls_key_file"]);
    let roots = |file: &str| {
        format!(
            "[pgweir]\nserver_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"{file}\"\n{server}"
        )
    };
    files.refuses(
        &roots("missing_ca.pem"),
        &["missing_ca.pem", "No such file"],
    );
    files.refuses(&roots(&garbage), &["garbage.pem"]);
    let hba = files.write(
        "hba.conf",
        "host all all 127.0.0.1/32 trust\nhost all all nonsense\n",
    );
    let rules =
        |file: &str| format!("[pgweir]\nauth_type = \"hba\"\nauth_hba_file = \"{file}\"\n{server}");
    files.refuses(&rules(&hba), &["hba.conf", "line 2"]);
    files.refuses(
        &rules("missing_hba.conf"),
        &["missing_hba.conf", "No such file"],
    );
    let users = files.write("userlist.txt", "\"alice\" \"secret\"\n\"bob\n");
    let list = |file: &str| format!("[pgweir]\nauth_file = \"{file}\"\n{server}");
    files.refuses(&list(&users), &["userlist.txt", "2"]);
    files.refuses(
        &list("missing_users.txt"),
        &["missing_users.txt", "No such file"],
    );
}

#[test]
fn a_port_that_is_in_use_and_addresses_that_there_are_not() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let builder = || PgweirBuilder::without_servers().server_at("127.0.0.1", 1, "primary");
    for (builder, words) in [
        (
            builder().pgweir("listen_port", &port),
            &[&port, "in use"][..],
        ),
        (
            builder().pgweir("listen_addr", "\"192.0.2.1\""),
            &["192.0.2.1"],
        ),
        (
            builder().pgweir("listen_addr", "\"no-such-host.invalid\""),
            &["no-such-host.invalid"],
        ),
        (builder().pgweir("listen_addr", "[]"), &["listen"]),
        (
            builder().pgweir("unix_socket_dir", "\"/nonexistent/directory\""),
            &["/nonexistent/directory"],
        ),
    ] {
        let mut pooler: Pgweir = builder.spawn();
        assert_eq!(pooler.wait_exit().code(), Some(1), "{words:?}");
        let log = pooler.log().text();
        for word in words {
            assert!(
                sentence(&log).contains(word),
                "it does not say {word}: {log}"
            );
        }
    }
}

#[test]
fn command_lines_that_mean_nothing() {
    for arguments in [
        &[][..],
        &["--config"],
        &["--confg", "x"],
        &["check"],
        &["--listen", "127.0.0.1:0"],
        &["--primary", "http://x"],
        &["--primary", "postgres://x/y", "--listen", "nowhere"],
    ] {
        let output = pgweir(arguments);
        let stderr = text(&output.stderr);
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{arguments:?}: {stderr}"
        );
        assert!(
            !stderr.is_empty() && !stderr.contains("panicked"),
            "{arguments:?}: {stderr}"
        );
    }
    let output = pgweir(&["--version"]);
    assert!(output.status.success() && text(&output.stdout).starts_with("pgweir "));
}
