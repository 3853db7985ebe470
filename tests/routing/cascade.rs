//! A replica that streams from a replica: as fresh, as far and as able to follow as one that streams from
//! the primary.

use std::{collections::BTreeSet, time::Duration};

use ::pgweir::sandbox::{Cluster, Node, StopMode};

use crate::{
    stage::{console, database, pooler, pooler_by_observation},
    support::{
        self, Pgweir, eventually,
        raw::{Raw, bind, execute, parse, sync},
        servers::{WHO, catch_up, name_servers},
    },
};

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY)";

/// `primary`, `replica0` that streams from it, and `replica1` that streams from `replica0`.
fn cascade() -> Cluster {
    let builder = Cluster::builder(support::binaries()).replicas(1);
    let mut cluster = support::start(builder);
    cluster.add_replica(1).unwrap();
    name_servers(&cluster);
    let upstream = cluster.replica(1).psql("SHOW primary_conninfo").unwrap();
    let port = format!("port={} ", cluster.replica(0).port());
    assert!(upstream.contains(&port), "{upstream}");
    cluster
}

/// What SHOW REPLICAS says of a server: its state, lag in bytes, lag in microseconds, and timeline.
fn shown(pooler: &Pgweir, node: &Node) -> [String; 4] {
    let lines = console(pooler, "SHOW REPLICAS");
    let port = format!(":{}", node.port());
    let columns = lines.iter().map(|line| line.split('|').collect::<Vec<_>>());
    let found = columns.into_iter().find(|it| it[1].ends_with(&port));
    let row = found.unwrap_or_else(|| panic!("no {port} in {lines:#?}"));
    [3, 4, 5, 7].map(|column| row[column].to_owned())
}

/// Inserts rows, and after each asks how many there are until a replica has answered; answers which did.
fn write_and_read(raw: &mut Raw, prepared: bool, ids: std::ops::Range<usize>) -> BTreeSet<String> {
    const INSERT: &str = "INSERT INTO t VALUES ($1)";
    let select = format!("{WHO}, count(*) FROM t");
    if prepared {
        raw.ask(&[parse("insert", INSERT), parse("select", &select), sync()]);
    }
    let mut served = BTreeSet::new();
    for id in ids {
        let written = if prepared {
            let id = id.to_string();
            raw.ask(&[bind("insert", &[&id]), execute(), sync()])
        } else {
            raw.query(&INSERT.replace("$1", &id.to_string()))
        };
        assert!(written.contains(&"C INSERT 0 1".to_owned()), "{written:?}");
        eventually("a replica serves", || {
            let answers = if prepared {
                raw.ask(&[bind("select", &[]), execute(), sync()])
            } else {
                raw.query(&select)
            };
            let row = answers.iter().find_map(|it| it.strip_prefix("D "));
            let (server, count) = row.and_then(|row| row.split_once('|')).unwrap();
            assert_eq!(count, (id + 1).to_string(), "{server} is behind");
            served.insert(server.to_owned());
            server != "primary"
        });
    }
    served
}

/// With either of them later than the other: a replica passes on what it has received, replayed or not.
#[test]
fn what_was_written_is_read_whichever_of_them_is_late() {
    const ROUNDS: usize = 60;
    let cluster = cascade();
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| it);
    let mut raw = Raw::connect(pooler.address(), &name);
    let mut next = 0;
    for late in [None, Some(0), Some(1)] {
        for index in [0, 1] {
            let delay = Duration::from_millis(if late == Some(index) { 100 } else { 0 });
            cluster.replica(index).set_replay_delay(delay).unwrap();
        }
        for prepared in [false, true] {
            let served = write_and_read(&mut raw, prepared, next..next + ROUNDS);
            next += ROUNDS;
            println!("late: {late:?}, prepared: {prepared}, served by {served:?}");
        }
    }
    for index in [0, 1] {
        cluster
            .replica(index)
            .set_replay_delay(Duration::ZERO)
            .unwrap();
    }
    catch_up(&cluster);
    let mut served = BTreeSet::new();
    eventually("both serve, and the primary does not", || {
        served.insert(Raw::connect(pooler.address(), &name).value(WHO));
        served.len() >= 2
    });
    assert_eq!(served, ["replica0", "replica1"].map(str::to_owned).into());
    for replica in cluster.replicas() {
        eventually("it has caught up, as far as is known", || {
            shown(&pooler, replica) == ["replica", "0", "0", "1"]
        });
    }
}

#[test]
fn it_follows_the_one_it_streams_from_onto_another_timeline() {
    let cluster = cascade();
    let name = database(&cluster, TABLE);
    let pooler = pooler_by_observation(&cluster, &name, |it| it);
    let mut raw = Raw::connect(pooler.address(), &name);
    write_and_read(&mut raw, false, 0..5);
    cluster.primary().stop(StopMode::Fast).unwrap();
    let (new, other) = (cluster.replica(0), cluster.replica(1));
    new.promote().unwrap();
    raw.run("INSERT INTO t VALUES (5)");
    eventually("it serves again", || {
        let seen = raw.value(&format!("{WHO}, count(*) FROM t"));
        let (server, count) = seen.split_once('|').unwrap();
        assert_eq!(count, "6", "{server} is behind");
        server == "replica1"
    });
    eventually("both are on the new timeline", || {
        let [state, .., timeline] = shown(&pooler, new);
        (&*state, &*timeline) == ("primary", "2")
            && shown(&pooler, other) == ["replica", "0", "0", "2"]
    });
    // The writes go to one, the reads to the other.
    for id in 6..106 {
        raw.run(&format!("INSERT INTO t VALUES ({id})"));
        let seen = raw.value(&format!("{WHO}, count(*) FROM t"));
        assert!(seen.ends_with(&format!("|{}", id + 1)), "{seen}");
    }
    let mut stranger = Raw::connect(pooler.address(), &name);
    for _ in 0..20 {
        assert_eq!(stranger.value(WHO), "replica1");
    }
}
