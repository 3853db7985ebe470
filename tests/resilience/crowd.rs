//! Two thousand clients on ten servers.

use std::{fs, process::Command};

use futures_util::future::join_all;

use crate::support::{
    self, Pgweir,
    wire::{self, Wire},
};

const CLIENTS: usize = 2000;
const POOL_SIZE: usize = 10;

#[tokio::test]
async fn two_thousand_clients_share_ten_servers() {
    crowd("crowd_of_one_worker", "1").await;
}

#[tokio::test]
async fn two_thousand_clients_share_ten_servers_of_two_workers() {
    crowd("crowd_of_two_workers", "2").await;
}

#[tokio::test]
async fn the_limit_on_open_files_is_raised_as_far_as_it_goes() {
    for (limits, clients, warned) in [("64:4096", 200, false), ("64:300", 150, true)] {
        let pooler = Pgweir::builder(support::postgres())
            .wrapped_in(&["prlimit", &format!("--nofile={limits}")])
            .pgweir("max_client_conn", "1000")
            .start();
        let mut clients = join_all((0..clients).map(|_| Wire::connect(&pooler, "postgres"))).await;
        for client in &mut clients {
            assert_eq!(client.scalar("SELECT 1").await, "1");
        }
        let log = pooler.log().text();
        assert_eq!(log.contains("the limit on open files 300"), warned, "{log}");
    }
}

async fn crowd(database: &str, workers: &str) {
    allow_descriptors(4 * CLIENTS as u64 + 200);
    let primary = support::postgres().primary();
    primary
        .psql(&format!("CREATE DATABASE {database}"))
        .unwrap();
    primary
        .psql_in(database, "CREATE TABLE visits (client int, round int)")
        .unwrap();
    let pooler = Pgweir::builder(support::postgres())
        .pool_size(POOL_SIZE)
        .pgweir("workers", workers)
        .pgweir("log_connections", "false")
        .pgweir("log_disconnections", "false")
        .start();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS / 50 {
        clients.extend(join_all((0..50).map(|_| Wire::connect(&pooler, database))).await);
    }
    for round in 0..3 {
        join_all(
            clients
                .iter_mut()
                .enumerate()
                .map(|(number, client)| visit(client, number, round)),
        )
        .await;
    }
    let found = "SELECT count(*), count(DISTINCT (client, round)) FROM visits";
    let all = CLIENTS * 3;
    assert_eq!(
        primary.psql_in(database, found).unwrap(),
        format!("{all}|{all}")
    );
    let servers = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND backend_type = 'client backend' AND application_name <> 'psql'"
    );
    let servers: usize = primary
        .psql_in(database, &servers)
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=POOL_SIZE).contains(&servers), "{servers} servers");
}

async fn visit(client: &mut Wire, number: usize, round: usize) {
    let insert = format!("INSERT INTO visits VALUES ({number}, {round})");
    match number % 3 {
        0 => assert_eq!(client.ask(&insert).await, ["C INSERT 0 1", "Z I"]),
        1 => {
            assert_eq!(client.ask("BEGIN").await, ["C BEGIN", "Z T"]);
            assert_eq!(client.ask(&insert).await, ["C INSERT 0 1", "Z T"]);
            assert_eq!(client.ask("COMMIT").await, ["C COMMIT", "Z I"]);
        }
        _ => {
            let number = number.to_string();
            let parse = wire::parse(
                "visit",
                "INSERT INTO visits SELECT $1::int, $2::int RETURNING client",
            );
            let (first, expected) = match round {
                0 => (parse, &["1", "2"][..]),
                _ => (Vec::new(), &["2"][..]),
            };
            let round = round.to_string();
            let bind = wire::bind("visit", &[number.as_bytes(), round.as_bytes()]);
            client
                .send(&[first, bind, wire::execute(), wire::sync()].concat())
                .await;
            let row = format!("D {number}");
            let expected = [expected, &[&row, "C INSERT 0 1", "Z I"]].concat();
            assert_eq!(client.answers().await, expected);
        }
    }
}

/// Sees to it that this process and its children may have `count` open files.
fn allow_descriptors(count: u64) {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut limits = line.unwrap().split_whitespace().skip(3);
    let soft: u64 = limits.next().unwrap().parse().unwrap_or(u64::MAX);
    if soft >= count {
        return;
    }
    let pid = std::process::id().to_string();
    let limit = format!("--nofile={count}:");
    let raised = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    assert!(
        raised.is_ok_and(|status| status.success()),
        "this test needs {count} open files and the limit is {soft}: raise it with ulimit -n"
    );
}
