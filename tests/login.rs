//! Both legs of the login against others' implementations: our side as a client against real PostgreSQL, our side as a server against
//! libpq (psql), and both of ours against each other over TLS.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

mod support;

use std::{
    io,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use pgweir::{
    auth::{Credentials, Md5Hash, hba::Rules, ident::IdentMaps},
    client::{
        auth_query::AuthQueryCache,
        login::{LoggedIn, Login, LoginContext, LoginError, LoginFailure, login},
    },
    config::{Config, SslMode, describe},
    net::{
        AcceptTls, Acceptor, Address, ConnectTls, Connector, Framed, Identity, Peer, Resolver,
        Roots, Stream, TlsVersions, Verify,
    },
    protocol::{FrontendTag, SqlState, backend::TransactionStatus, encode},
    sandbox::{Cluster, Waited},
    server::{
        ConnectError, Derivations, Found, Inquiry, LookupError, ServerLogin,
        connect::{ConnectTarget, Connected, connect},
        connect_error::ConnectFailure,
        lookup::look_up,
    },
};
use support::{
    PgweirBuilder,
    login::{tcp, trusted},
    tls::Authority,
    wire::{Wire, message, startup},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::spawn_blocking};

const PASSWORD: &str = "p\u{e4}ncil"; // not ASCII, for SASLprep

fn derivations() -> Derivations {
    Derivations::new(100, 1, [1; 32])
}

async fn log_in(
    target: &ConnectTarget,
    credentials: &Credentials,
) -> Result<Connected, ConnectError> {
    let resolver = Resolver::new(Duration::ZERO, Duration::ZERO);
    connect(target, &resolver, credentials, &derivations()).await
}

fn password() -> Credentials {
    Credentials::Password(PASSWORD.into())
}

/// TLS material in files.
struct Pki {
    authority: Authority,
    dir: TempDir,
}

impl Pki {
    fn new() -> Self {
        let authority = Authority::new();
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("ca.pem"), &authority.certificate).unwrap();
        Self { authority, dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn identity(&self, name: &str, identity: &support::tls::Identity) -> Identity {
        use std::os::unix::fs::PermissionsExt;
        let files = Identity {
            key_file: self.path(&format!("{name}.key")).into(),
            cert_file: self.path(&format!("{name}.crt")).into(),
        };
        std::fs::write(&files.key_file, &identity.key).unwrap();
        std::fs::write(&files.cert_file, &identity.certificate).unwrap();
        // libpq refuses keys that others can read.
        std::fs::set_permissions(&files.key_file, PermissionsExt::from_mode(0o600)).unwrap();
        files
    }

    fn connector(&self, client: Option<&str>) -> Connector {
        let identity = client.map(|name| self.identity(name, &self.authority.client(name)));
        let settings = ConnectTls {
            verify: Verify::ChainAndName,
            roots: Some(Roots::File(self.path("ca.pem").into())),
            identity,
            versions: TlsVersions::Both,
        };
        Connector::load(&settings).unwrap()
    }

    fn acceptor(&self) -> Acceptor {
        let server = self.authority.server(&["localhost", "127.0.0.1"]);
        let settings = AcceptTls {
            identity: self.identity("server", &server),
            ca_file: Some(self.path("ca.pem").into()),
            client_certificate_required: false,
            versions: TlsVersions::Both,
        };
        Acceptor::load(&settings).unwrap()
    }
}

fn postgres(pki: &Pki) -> Cluster {
    let server = pki.authority.server(&["localhost"]);
    let builder = Cluster::builder(support::binaries())
        .setting("ssl", "on")
        .setting("ssl_cert_file", "server.crt")
        .setting("ssl_key_file", "server.key")
        .setting("ssl_ca_file", "ca.crt")
        .file("server.crt", server.certificate)
        .file("server.key", server.key)
        .file("ca.crt", pki.authority.certificate.clone())
        .hba("local all all trust")
        .hba("host all trusted 127.0.0.1/32 trust")
        .hba("host all cleartext 127.0.0.1/32 password")
        .hba("host all md5 127.0.0.1/32 md5")
        .hba("host all scram,limited,expired,asker 127.0.0.1/32 scram-sha-256")
        .hba("hostssl all certified 127.0.0.1/32 cert")
        .hba("hostnossl all plain_only 127.0.0.1/32 scram-sha-256");
    let cluster = support::start(builder);
    let mut sql = "CREATE ROLE trusted LOGIN; CREATE ROLE certified LOGIN; \
                   CREATE ROLE asker LOGIN SUPERUSER; CREATE ROLE nologin; "
        .to_owned();
    for role in [
        "cleartext",
        "scram",
        "plain_only",
        "expired",
        "asker",
        "nologin",
    ] {
        let create = if ["asker", "nologin"].contains(&role) {
            "ALTER"
        } else {
            "CREATE"
        };
        let login = if role == "nologin" { "" } else { "LOGIN" };
        sql.push_str(&format!(
            "{create} ROLE {role} {login} PASSWORD '{PASSWORD}'; "
        ));
    }
    sql.push_str("ALTER ROLE expired VALID UNTIL 'yesterday'; ");
    sql.push_str(&format!(
        "CREATE ROLE limited LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 0; "
    ));
    sql.push_str("SET password_encryption = md5; ");
    sql.push_str(&format!("CREATE ROLE md5 LOGIN PASSWORD '{PASSWORD}'; "));
    cluster.primary().psql(&sql).unwrap();
    cluster
}

#[tokio::test]
async fn every_method_of_a_real_server() {
    let pki = Pki::new();
    let cluster = postgres(&pki);
    let port = cluster.primary().port();
    for (user, credentials) in [
        ("trusted", Credentials::None),
        ("cleartext", password()),
        ("md5", password()),
        (
            "md5",
            Credentials::Md5(Md5Hash::of("md5", PASSWORD.as_bytes())),
        ),
        ("scram", password()),
        ("plain_only", password()),
    ] {
        let connected = log_in(&tcp(port, user), &credentials)
            .await
            .unwrap_or_else(|error| panic!("{user}: {}", describe(&error)));
        assert!(connected.key.is_some());
        let version = connected
            .parameters
            .iter()
            .find(|(name, _)| name == b"server_version");
        assert!(version.is_some());
    }
    let unix = ConnectTarget {
        address: Address::new(cluster.primary().socket_dir().to_str().unwrap(), port),
        at: None,
        ..tcp(port, "scram")
    };
    assert!(log_in(&unix, &Credentials::None).await.is_ok());

    for (user, credentials, sqlstate) in [
        (
            "scram",
            Credentials::Password("wrong".into()),
            SqlState::INVALID_PASSWORD,
        ),
        (
            "scram",
            Credentials::Password("x".repeat(900).as_str().into()),
            SqlState::INVALID_PASSWORD,
        ),
        ("limited", password(), SqlState::TOO_MANY_CONNECTIONS),
        (
            "nobody",
            password(),
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        ),
        (
            "certified",
            password(),
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        ),
    ] {
        let error = log_in(&tcp(port, user), &credentials).await.unwrap_err();
        assert_eq!(error.sqlstate(), sqlstate, "{}", describe(&error));
    }
}

#[tokio::test]
async fn tls_channel_binding_and_certificates_of_a_real_server() {
    let pki = Pki::new();
    let cluster = postgres(&pki);
    let port = cluster.primary().port();
    let target = |user, sslmode, client: Option<&str>| ConnectTarget {
        sslmode,
        connector: Some(pki.connector(client)),
        ..tcp(port, user)
    };
    // With channel binding, which the server offers.
    let connected = log_in(&target("scram", SslMode::VerifyFull, None), &password()).await;
    assert!(connected.unwrap().stream.tls().is_some());
    let certified = |name| target("certified", SslMode::Require, Some(name));
    let connected = log_in(&certified("certified"), &Credentials::None).await;
    assert!(connected.unwrap().stream.tls().is_some());
    let refused = log_in(&certified("other"), &Credentials::None).await;
    let error = refused.unwrap_err();
    assert_eq!(
        error.sqlstate(),
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION
    );

    // Each has a rule for one of the two kinds of connection only.
    for (user, sslmode, encrypted) in [
        ("plain_only", SslMode::Prefer, false),
        ("scram", SslMode::Prefer, true),
        ("scram", SslMode::Allow, false),
        ("certified", SslMode::Allow, true),
    ] {
        let connected = log_in(&target(user, sslmode, Some("certified")), &password()).await;
        let connected = connected.unwrap_or_else(|error| panic!("{user}: {}", describe(&error)));
        assert_eq!(
            connected.stream.tls().is_some(),
            encrypted,
            "{user} {sslmode}"
        );
    }
    let error = log_in(&target("plain_only", SslMode::Require, None), &password()).await;
    assert_eq!(
        error.unwrap_err().sqlstate(),
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION
    );
}

#[tokio::test]
async fn auth_query_of_a_real_server_sees_no_expired_password() {
    let pki = Pki::new();
    let cluster = postgres(&pki);
    let login = ServerLogin {
        credentials: password(),
        ..trusted(tcp(cluster.primary().port(), "asker"))
    };
    let mut inquiry = Inquiry::open(&login, "asker", &[]).await.unwrap();
    let query = Config::default().process.auth_query;
    for (user, expected) in [
        ("scram", Some("SCRAM-SHA-256$4096:")),
        ("md5", Some("md5")),
        ("expired", None),
        ("trusted", None),
        ("nobody", None),
        ("nologin", None),
        ("x'; DROP ROLE scram; --", None),
    ] {
        match (look_up(&mut inquiry, &query, user).await.unwrap(), expected) {
            (Found::Secret(text), Some(prefix)) => assert!(text.reveal().starts_with(prefix)),
            (Found::NoSuchUser | Found::NoPassword, None) => {}
            (found, _) => panic!("{user}: {found:?}"),
        }
    }
    // A fixed search_path, and nothing but reading; the session survives the server's errors.
    for (query, code) in [
        ("SELECT $1, 'x' FROM pgweir_trap", "42P01"),
        (
            "DELETE FROM pg_catalog.pg_authid WHERE rolname = $1 RETURNING rolname, ''",
            "25006",
        ),
    ] {
        match look_up(&mut inquiry, query, "scram").await {
            Err(LookupError::Inquiry(error)) => {
                assert!(error.to_string().contains(code), "{error}");
            }
            other => panic!("{query}: {other:?}"),
        }
    }
    assert!(look_up(&mut inquiry, &query, "scram").await.is_ok());
}

/// A listener that lets in whom the configuration lets in, and answers each query with nothing.
struct Door {
    config: Config,
    hba: Option<Rules>,
    acceptor: Option<Acceptor>,
    derivations: Derivations,
    answers: AuthQueryCache,
    listener: TcpListener,
}

impl Door {
    async fn new(auth_type: &str, secret: &str, acceptor: Option<Acceptor>) -> Self {
        let text = format!(
            "[pgweir]\nauth_type = \"{auth_type}\"\n[databases.app]\n\
             servers = [{{ host = \"127.0.0.1\", port = 5432 }}]\n[users.alice]\npassword = \"{secret}\"\n"
        );
        let config = Config::parse(&text, Path::new(""), &|_| None);
        Self {
            config: config.unwrap_or_else(|error| panic!("{error:?}")),
            hba: None,
            acceptor,
            derivations: derivations(),
            answers: AuthQueryCache::default(),
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
        }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    async fn admit(&self) -> Result<Box<LoggedIn>, LoginError> {
        let (socket, address) = self.listener.accept().await.unwrap();
        let context = LoginContext {
            peer: Peer::Tcp(address),
            config: &self.config,
            hba: self.hba.as_ref(),
            ident: &IdentMaps::default(),
            acceptor: self.acceptor.as_ref(),
            mock_key: [2; 32],
            max_iterations: 100_000,
            derivations: &self.derivations,
            answers: &self.answers,
            secret_source: None,
            own_uid: u32::MAX,
        };
        match login(Stream::from(socket), &context).await? {
            Login::Session(client, _) => Ok(client),
            other => panic!("{other:?}"),
        }
    }

    /// Lets one client in, and serves it until it leaves.
    async fn serve(&self) -> Result<Credentials, LoginError> {
        let client = self.admit().await?;
        let mut out = client.owed.clone();
        encode::backend_key_data(&mut out, 1, b"abcd");
        encode::ready_for_query(&mut out, TransactionStatus::Idle);
        let mut framed = Framed::new(client.stream);
        let _gone: io::Result<()> = framed.write(&out).await;
        while let Ok(message) = framed.read_message(|_| Some(10_000)).await {
            if message.tag == FrontendTag::Query.byte() {
                let mut out = Vec::new();
                encode::command_complete(&mut out, "SELECT 0");
                encode::ready_for_query(&mut out, TransactionStatus::Idle);
                framed.write(&out).await.unwrap();
            }
        }
        Ok(client.credentials)
    }

    /// What psql makes of it, and what the login made of psql.
    async fn psql(&self, parameters: &str) -> (Output, Result<Credentials, LoginError>) {
        let conninfo = format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=alice dbname=app connect_timeout=60 {parameters}",
            self.port()
        );
        let psql = support::binaries().client_program("psql").unwrap();
        let run = spawn_blocking(move || {
            Command::new(psql)
                .args([
                    "--no-psqlrc",
                    "--no-password",
                    "--command",
                    "select",
                    "--dbname",
                ])
                .arg(conninfo)
                .env("PGPASSWORD", PASSWORD)
                .env_remove("PGOPTIONS")
                .stdin(Stdio::null())
                .output()
        });
        let (output, served) = tokio::join!(run, self.serve());
        (output.unwrap().unwrap(), served)
    }
}

fn verifier(password: &str) -> String {
    use pgweir::auth::{KdfRequest, Secret};
    let request = KdfRequest::new("", password.into(), b"sixteen bytes...", 4096, 4096);
    let keys = request.unwrap().run();
    Secret::scram_text(&keys.verifier(b"sixteen bytes...", 4096))
}

fn md5(password: &str) -> String {
    use md5::{Digest, Md5};
    let hex = Md5::digest(format!("{password}alice"));
    hex.iter()
        .fold("md5".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test]
async fn libpq_is_let_in_by_every_method_and_secret() {
    let pki = Pki::new();
    for (auth_type, secret, parameters) in [
        ("trust", "unused".to_owned(), "sslmode=disable"),
        ("plain", PASSWORD.to_owned(), "sslmode=disable"),
        ("plain", md5(PASSWORD), "sslmode=disable"),
        ("plain", verifier(PASSWORD), "sslmode=disable"),
        ("md5", PASSWORD.to_owned(), "sslmode=disable"),
        ("md5", md5(PASSWORD), "sslmode=disable"),
        ("md5", verifier(PASSWORD), "sslmode=disable"),
        ("scram-sha-256", PASSWORD.to_owned(), "sslmode=disable"),
        ("scram-sha-256", verifier(PASSWORD), "sslmode=disable"),
        (
            "scram-sha-256",
            verifier(PASSWORD),
            "sslmode=require channel_binding=require",
        ),
        (
            "scram-sha-256",
            PASSWORD.to_owned(),
            "sslmode=require channel_binding=disable",
        ),
    ] {
        let door = Door::new(auth_type, &secret, Some(pki.acceptor())).await;
        let (output, served) = door.psql(parameters).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        let what = format!("{auth_type} {parameters}: {stderr} {served:?}");
        assert!(output.status.success() && served.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn libpq_shows_why_it_was_not_let_in() {
    let door = Door::new("scram-sha-256", &verifier("another"), None).await;
    let (output, served) = door.psql("sslmode=prefer").await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("FATAL:  password authentication failed for user \"alice\""),
        "{stderr}"
    );
    assert!(matches!(
        served.unwrap_err().failure,
        LoginFailure::Denied(_)
    ));

    let door = Door::new("trust", "unused", None).await;
    let (output, _) = door.psql("sslmode=disable options='-c ='").await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("FATAL:  invalid parameter name \"\""),
        "{stderr}"
    );
}

#[tokio::test]
async fn libpq_is_let_in_by_its_certificate() {
    let pki = Pki::new();
    let mut door = Door::new("trust", "unused", Some(pki.acceptor())).await;
    let hba = pki.path("hba.conf");
    std::fs::write(&hba, "").unwrap();
    let text = format!(
        "[pgweir]\nauth_type = \"hba\"\nauth_hba_file = \"{hba}\"\n[databases.app]\n\
         servers = [{{ host = \"127.0.0.1\", port = 5432 }}]\n"
    );
    door.config = Config::parse(&text, Path::new(""), &|_| None).unwrap();
    door.hba = Some(Rules::parse("hostssl all all all cert", &mut |_| Err(String::new())).unwrap());
    for (name, expected) in [("alice", true), ("bob", false)] {
        let files = pki.identity(name, &pki.authority.client(name));
        let parameters = format!(
            "sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
            pki.path("ca.pem"),
            files.cert_file.display(),
            files.key_file.display()
        );
        let (output, served) = door.psql(&parameters).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.success(), served.is_ok()),
            (expected, expected),
            "{stderr}"
        );
    }
    let (_, served) = door
        .psql("sslmode=require sslcert=/nonexistent sslkey=/nonexistent")
        .await;
    assert!(matches!(
        served.unwrap_err().failure,
        LoginFailure::NoCertificate
    ));
}

#[tokio::test]
async fn a_clients_keys_log_in_to_a_real_server_with_the_same_verifier() {
    let pki = Pki::new();
    let cluster = postgres(&pki);
    let query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'scram'";
    let stored = cluster.primary().psql(query).unwrap();
    let door = Door::new("scram-sha-256", &stored, Some(pki.acceptor())).await;
    let client = ConnectTarget {
        sslmode: SslMode::VerifyFull,
        connector: Some(pki.connector(None)),
        database: "app".to_owned(),
        ..tcp(door.port(), "alice")
    };
    let secret = password();
    let (connected, served) = tokio::join!(
        async { log_in(&client, &secret).await.map(drop) },
        door.serve()
    );
    connected.unwrap();
    let keys = served.unwrap();
    assert!(matches!(keys, Credentials::Scram(_)));

    let port = cluster.primary().port();
    log_in(&tcp(port, "scram"), &keys).await.unwrap();
    let bound = ConnectTarget {
        sslmode: SslMode::VerifyFull,
        connector: Some(pki.connector(None)),
        ..tcp(port, "scram")
    };
    log_in(&bound, &keys).await.unwrap();

    let change = format!("ALTER ROLE scram PASSWORD '{PASSWORD}'");
    cluster.primary().psql(&change).unwrap();
    let error = log_in(&bound, &keys).await.unwrap_err();
    assert!(
        matches!(error.failure, ConnectFailure::Authentication(_)),
        "{}",
        describe(&error)
    );
}

/// Whoever guesses names learns nothing; whoever reads the log learns why.
#[tokio::test]
async fn the_log_tells_what_the_client_is_not_told() {
    let pooler = PgweirBuilder::without_servers()
        .server(support::postgres().primary(), "primary")
        .pgweir("auth_type", "\"plain\"")
        .start();
    let mut stranger = Wire::dial(pooler.address()).await;
    let parameters = [("user", "stranger"), ("database", "postgres")];
    stranger.send(&startup(&parameters)).await;
    assert_eq!(stranger.read().await.unwrap().0, b'R');
    stranger.send(&message(b'p', b"guess\0")).await;
    let told = stranger.error().await;
    assert_eq!(
        told.field('M'),
        "password authentication failed for user \"stranger\""
    );
    let logged = pooler.log().wait_for(0, Duration::from_secs(20), |line| {
        line.contains("login failed") && line.contains("no such user, or no secret is stored")
    });
    assert!(matches!(logged, Waited::Line(_)), "{}", pooler.log().text());
}
