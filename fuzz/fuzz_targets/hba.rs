//! Any text as HBA rules and as ident maps: an answer or an error with its line, for any connection.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use pgweir::auth::{
    hba::{Connection, HbaError, Origin, Rules},
    ident::IdentMaps,
};

fn check_line(text: &str, error: &HbaError) {
    assert!((1..=text.lines().count().max(1)).contains(&error.line));
    assert!(!error.to_string().is_empty());
}

fuzz_target!(|text: &str| {
    let mut include = |file: &str| match file {
        "empty" => Ok(String::new()),
        "itself" => Ok(text.to_owned()),
        _ => Err("no such file".to_owned()),
    };
    match Rules::parse(text, &mut include) {
        Err(error) => check_line(text, &error),
        Ok(rules) => {
            let tcp = |address, tls| Origin::Tcp { address, tls };
            for origin in [
                Origin::Local,
                tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), false),
                tcp(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)), true),
                tcp(IpAddr::V6(Ipv6Addr::LOCALHOST), true),
            ] {
                for physical_replication in [false, true] {
                    let connection = Connection {
                        origin,
                        database: "app",
                        user: "app",
                        physical_replication,
                    };
                    if let Some(rule) = rules.first_match(&connection) {
                        assert!(rules.iter().any(|other| other.line == rule.line));
                    }
                }
            }
        }
    }
    match IdentMaps::parse(text) {
        Err(error) => check_line(text, &error),
        Ok(maps) => {
            maps.allows(Some("map"), "system", "app");
            assert!(maps.allows(None, "app", "app"));
        }
    }
});
