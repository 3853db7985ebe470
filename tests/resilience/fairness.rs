//! Whoever comes first is served first.

use crate::{
    console::Watch,
    support::{
        self, Pgweir,
        wire::{self, Wire},
    },
};

#[expect(
    clippy::cognitive_complexity,
    reason = "the macros of assertions count as branches"
)]
async fn in_order_of_arrival(workers: &str, database: &str) {
    const CLIENTS: usize = 40;
    let primary = support::postgres().primary();
    primary
        .psql(&format!("CREATE DATABASE {database}"))
        .unwrap();
    primary
        .psql_in(database, "CREATE TABLE served (turn serial, client int)")
        .unwrap();
    let pooler = Pgweir::builder(support::postgres())
        .pool_size(1)
        .pgweir("workers", workers)
        .start();
    let mut holder = Wire::connect(&pooler, database).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Wire::connect(&pooler, database).await);
    }
    let mut watch = Watch::of(&pooler, database).await;
    assert_eq!(holder.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    for (number, client) in clients.iter_mut().enumerate() {
        let insert = format!("INSERT INTO served (client) VALUES ({number})");
        // By turns in one message, and in a transaction of several.
        match number % 3 {
            0 => client.send(&wire::query(&insert)).await,
            1 => {
                client
                    .send(
                        &[
                            wire::parse("", &insert),
                            wire::bind("", &[]),
                            wire::execute(),
                            wire::sync(),
                        ]
                        .concat(),
                    )
                    .await
            }
            _ => {
                client
                    .send(&["BEGIN", &insert, "COMMIT"].map(wire::query).concat())
                    .await
            }
        }
        watch.until("cl_waiting", number as u64 + 1).await;
    }
    // Who gives up, by a cancel request or by going away, keeps nobody waiting.
    let mut gone = clients.remove(7);
    gone.cancel(&pooler).await;
    let told = gone.error().await;
    assert_eq!(
        (told.code(), told.severity()),
        ("57014", "ERROR"),
        "{told:?}"
    );
    assert_eq!(gone.answer().await, "Z I");
    drop(clients.remove(20));
    watch.until("cl_waiting", CLIENTS as u64 - 2).await;
    assert_eq!(holder.ask("COMMIT").await, ["C COMMIT", "Z I"]);
    for client in &mut clients {
        while client.answers().await.last().unwrap() != "Z I" {}
    }
    let mut expected: Vec<_> = (0..CLIENTS).collect();
    expected.remove(7);
    expected.remove(20);
    let expected: Vec<_> = expected.iter().map(usize::to_string).collect();
    let found = primary
        .psql_in(database, "SELECT client FROM served ORDER BY turn")
        .unwrap();
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn one_worker_serves_in_order_of_arrival() {
    in_order_of_arrival("1", "fair_one").await;
}

#[tokio::test]
async fn two_workers_serve_in_order_of_arrival() {
    in_order_of_arrival("2", "fair_two").await;
}
