use super::*;
use proptest::prelude::*;

fn rules(text: &str) -> Rules {
    Rules::parse(text, &mut |file| match file {
        "admins" => Ok("root, \"the boss\" # comment\nops\n".to_owned()),
        _ => Err("no such file".to_owned()),
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

fn tcp(address: &str, tls: bool) -> Origin {
    Origin::Tcp {
        address: address.parse().unwrap(),
        tls,
    }
}

fn decide(rules: &Rules, origin: Origin, database: &str, user: &str) -> Option<(usize, Method)> {
    let connection = Connection {
        origin,
        database,
        user,
        physical_replication: false,
    };
    rules
        .first_match(&connection)
        .map(|rule| (rule.line, rule.method))
}

#[test]
fn the_first_match_wins_and_no_match_refuses() {
    let rules = rules(
        "# TYPE DATABASE USER ADDRESS METHOD\n\
         local   all       all                     peer map=web\n\
         hostssl all       @admins  all            cert clientcert=verify-full\n\
         host    app,\"all\" alice    10.1.0.0/16    scram-sha-256\n\
         hostnossl all     all      10.0.0.0 255.0.0.0 reject\n\
         host    sameuser  all      fe80::/10      md5\n\
         host    all       bob      0.0.0.0/0      plain   # the rest\n",
    );
    let at = |origin, database, user| decide(&rules, origin, database, user);
    assert_eq!(at(Origin::Local, "x", "y"), Some((2, Method::Peer)));
    assert_eq!(
        at(tcp("1.2.3.4", true), "x", "the boss"),
        Some((3, Method::Cert))
    );
    assert_eq!(at(tcp("1.2.3.4", false), "x", "the boss"), None);
    assert_eq!(
        at(tcp("10.1.2.3", false), "app", "alice"),
        Some((4, Method::ScramSha256))
    );
    assert_eq!(
        at(tcp("::ffff:10.1.2.3", true), "app", "alice"),
        Some((4, Method::ScramSha256))
    );
    assert_eq!(
        at(tcp("10.1.2.3", true), "all", "alice"),
        Some((4, Method::ScramSha256))
    );
    assert_eq!(
        at(tcp("10.1.2.3", true), "other", "alice"),
        None,
        "a quoted all is a name"
    );
    assert_eq!(
        at(tcp("10.2.2.3", false), "app", "alice"),
        Some((5, Method::Reject))
    );
    assert_eq!(at(tcp("fe80::1", true), "u", "u"), Some((6, Method::Md5)));
    assert_eq!(at(tcp("fe80::1", true), "u", "v"), None);
    assert_eq!(
        at(tcp("9.9.9.9", true), "x", "bob"),
        Some((7, Method::Password))
    );
    assert_eq!(
        at(tcp("::1", true), "x", "bob"),
        None,
        "an IPv4 network holds no IPv6 address"
    );
    let first = rules.iter().next().unwrap();
    assert_eq!(first.map.as_deref(), Some("web"));
    let second = rules.iter().nth(1).unwrap();
    assert_eq!(second.client_certificate, ClientCertificate::VerifyFull);
}

#[test]
fn physical_replication_is_no_database() {
    let rules = rules("local all all trust\nlocal replication all md5\n");
    let connection = |physical_replication| Connection {
        origin: Origin::Local,
        database: "replication",
        user: "u",
        physical_replication,
    };
    let line = |replication| rules.first_match(&connection(replication)).unwrap().line;
    assert_eq!((line(true), line(false)), (2, 1));
}

#[test]
fn masks_prefixes_and_continued_lines() {
    for (address, inside, outside) in [
        ("192.168.1.0/24", "192.168.1.255", "192.168.2.0"),
        ("192.168.1.7/32", "192.168.1.7", "192.168.1.6"),
        ("0.0.0.0/0", "255.1.2.3", "::1"),
        ("::/0", "::1", "127.0.0.1"),
        ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
        ("10.0.0.5 255.0.0.255", "10.9.9.5", "10.9.9.6"),
        ("::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1", "::2"),
    ] {
        let rules = rules(&format!("host all all \\\n  {address} trust\n"));
        assert_eq!(
            decide(&rules, tcp(inside, false), "d", "u"),
            Some((1, Method::Trust))
        );
        assert_eq!(
            decide(&rules, tcp(outside, false), "d", "u"),
            None,
            "{address}"
        );
    }
    // As in PostgreSQL, a list goes on only behind a comma that touches its value.
    let rules = rules("local a, b c,d trust\n");
    assert_eq!(
        decide(&rules, Origin::Local, "b", "d"),
        Some((1, Method::Trust))
    );
    assert_eq!(decide(&rules, Origin::Local, "c", "d"), None);
}

#[test]
fn what_cannot_be_judged_is_refused_with_its_line() {
    for (line, problem) in [
        ("locale all all trust", "invalid connection type \"locale\""),
        ("local", "the database is missing"),
        ("local all all", "the authentication method is missing"),
        (
            "local,host all all trust",
            "the connection type must be one value",
        ),
        ("local \"all all trust", "unterminated quoted string"),
        (
            "local all +staff trust",
            "role membership \"+staff\" is not supported",
        ),
        ("local samerole all trust", "\"samerole\" is not supported"),
        (
            "local /^db all trust",
            "the regular expression \"/^db\" is not supported",
        ),
        (
            "local @missing all trust",
            "cannot read \"missing\": no such file",
        ),
        (
            "host all all example.org trust",
            "the host name \"example.org\" is not supported",
        ),
        (
            "host all all .example.org trust",
            "the host name \".example.org\" is not supported",
        ),
        ("host all all samenet trust", "\"samenet\" is not supported"),
        (
            "host all all 10.0.0.0/33 trust",
            "invalid address \"10.0.0.0/33\"",
        ),
        (
            "host all all 10.0.0.0/ trust",
            "invalid address \"10.0.0.0/\"",
        ),
        (
            "host all all 10.0.0.0/+8 trust",
            "invalid address \"10.0.0.0/+8\"",
        ),
        (
            "host all all 10.0.0/8 trust",
            "invalid address \"10.0.0/8\"",
        ),
        ("host all all 10.0.0.0 trust", "invalid mask \"trust\""),
        (
            "host all all 10.0.0.0 ffff:: trust",
            "invalid mask \"ffff::\"",
        ),
        (
            "host all all all kerberos",
            "unknown authentication method \"kerberos\"",
        ),
        (
            "host all all all ldap",
            "authentication method \"ldap\" is not supported",
        ),
        ("host all all all cert", "method \"cert\" needs \"hostssl\""),
        ("host all all all peer", "method \"peer\" needs \"local\""),
        ("host all all all md5 map=x", "invalid option \"map=x\""),
        ("hostssl all all all cert map=", "invalid option \"map=\""),
        (
            "host all all all md5 clientcert=verify-ca",
            "invalid option \"clientcert=verify-ca\"",
        ),
        ("local all all trust extra", "invalid option \"extra\""),
        ("include other.conf", "\"include\" is not supported"),
    ] {
        let error = Rules::parse(&format!("\n{line}\n"), &mut |_| {
            Err("no such file".to_owned())
        })
        .expect_err(line);
        assert_eq!(error.line, 2);
        let text = error.to_string();
        assert!(text.contains(problem), "{line}: {text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z0-9 \",#@/.:+=\\\\\n]{0,120}") {
        drop(Rules::parse(&text, &mut |_| Ok("x".to_owned())));
    }

    #[test]
    fn prefixes_and_masks_agree(address: u32, client: u32, length in 0u32..=32) {
        let address = std::net::Ipv4Addr::from(address);
        let mask = std::net::Ipv4Addr::from(u32::MAX.checked_shl(32 - length).unwrap_or(0));
        let client = Origin::Tcp { address: std::net::Ipv4Addr::from(client).into(), tls: false };
        let by_prefix = rules(&format!("host all all {address}/{length} trust"));
        let by_mask = rules(&format!("host all all {address} {mask} trust"));
        prop_assert_eq!(decide(&by_prefix, client, "d", "u"), decide(&by_mask, client, "d", "u"));
    }
}
