//! What changes something, through a console connection.

use super::super::{
    ControlRequest,
    test_console::{Peer, Reply, TestConsole, eventually, on_a_worker},
};
use super::*;

const ONLY_APP: &str = r#"
    [databases.app]
    servers = [{ host = "10.0.0.1" }]
"#;

fn refused(message: &str) -> Vec<Reply> {
    vec![Reply::error("08P01", message)]
}

async fn ok(peer: &mut Peer, command: &str) {
    let verb = command.split(' ').next().expect("a word");
    assert_eq!(
        peer.query(command).await,
        [Reply::complete(verb)],
        "{command}"
    );
}

#[test]
fn pause_and_resume_of_all() {
    on_a_worker(async {
        let test = TestConsole::new();
        let pools = &test.console.pools;
        let mut psql = test.connect("root").await;
        ok(&mut psql, "PAUSE").await;
        assert!(pools.is_paused(None) && test.pool("app", "alice").view().paused);
        assert_eq!(
            psql.query("PAUSE").await,
            refused("already suspended/paused")
        );
        assert_eq!(
            psql.query("PAUSE app").await,
            refused("already suspended/paused")
        );
        assert_eq!(
            psql.query("KILL").await,
            refused("already suspended/paused")
        );
        assert_eq!(
            psql.query("RESUME app").await,
            refused("database app is not paused")
        );
        ok(&mut psql, "RESUME").await;
        assert!(!pools.is_paused(None) && !test.pool("app", "alice").view().paused);
        let expected = refused("pooler is not paused/suspended");
        assert_eq!(psql.query("RESUME").await, expected);
    });
}

#[test]
fn pause_and_resume_of_a_database() {
    on_a_worker(async {
        let test = TestConsole::new();
        let paused = |name| test.console.pools.is_paused(Some(name));
        let mut psql = test.connect("root").await;
        ok(&mut psql, "PAUSE app").await;
        ok(&mut psql, "PAUSE app").await;
        assert!(paused("app") && !paused("other"));
        assert!(!test.pool("other", "bob").view().paused);
        ok(&mut psql, "PAUSE").await;
        ok(&mut psql, "RESUME app").await;
        assert!(paused("app"), "all of them are");
        assert!(test.pool("app", "alice").view().paused, "all of them are");
        ok(&mut psql, "RESUME").await;
        assert!(!paused("app"));
    });
}

#[test]
fn pause_is_answered_when_no_server_is_left() {
    on_a_worker(async {
        let test = TestConsole::new();
        let server = test.busy_pool("app", "alice");
        let (mut psql, mut other) = (test.connect("root").await, test.connect("root").await);
        psql.ask("PAUSE").await;
        eventually(|| test.console.pools.is_paused(None)).await;
        assert_eq!(other.lines("SHOW STATE").await[1], "paused|yes");
        assert!(test.console.pools.has_servers(None));
        drop(server);
        assert_eq!(psql.until_ready().await, [Reply::complete("PAUSE")]);
        assert!(test.console.pools.is_paused(None));
        drop(psql);
        assert!(
            test.console.pools.is_paused(None),
            "it was answered, so it stays"
        );
    });
}

#[test]
fn a_cancelled_pause_is_undone() {
    on_a_worker(async {
        let test = TestConsole::new();
        let pools = &test.console.pools;
        let _server = test.busy_pool("app", "alice");
        let mut psql = test.connect("root").await;
        ok(&mut psql, "PAUSE other").await;
        psql.ask("PAUSE").await;
        eventually(|| pools.is_paused(None)).await;
        let (process_id, secret) = psql.key.clone();
        assert!(!test.console.sessions.cancel(process_id, &[0; 4]));
        assert!(!test.console.sessions.cancel(1, &secret));
        assert!(test.console.sessions.cancel(process_id, &secret));
        let canceled = Reply::error("57014", "canceling statement due to user request");
        assert_eq!(psql.until_ready().await, [canceled]);
        assert!(!pools.is_paused(None) && !test.pool("app", "alice").view().paused);
        assert!(
            pools.is_paused(Some("other")),
            "another PAUSE is not undone"
        );
        // A cancel request that comes too late does not hit the next command.
        assert!(test.console.sessions.cancel(process_id, &secret));
        ok(&mut psql, "RESUME other").await;
    });
}

#[test]
fn a_pause_that_nobody_waits_for_is_undone() {
    on_a_worker(async {
        let test = TestConsole::new();
        let pools = &test.console.pools;
        let _server = test.busy_pool("app", "alice");
        for command in ["PAUSE", "PAUSE app"] {
            let mut psql = test.connect("root").await;
            psql.ask(command).await;
            eventually(|| pools.is_paused(Some("app"))).await;
            drop(psql);
            eventually(|| !pools.is_paused(Some("app"))).await;
        }
        let mut psql = test.connect("root").await;
        psql.ask("PAUSE").await;
        eventually(|| pools.is_paused(None)).await;
        psql.served.abort();
        eventually(|| !pools.is_paused(None)).await;
        eventually(|| test.console.sessions.count() == 0).await;
    });
}

#[test]
fn resume_ends_a_pause_that_is_not_complete() {
    on_a_worker(async {
        let test = TestConsole::new();
        let _server = test.busy_pool("app", "alice");
        let (mut psql, mut other) = (test.connect("root").await, test.connect("root").await);
        psql.ask("PAUSE app").await;
        eventually(|| test.console.pools.is_paused(Some("app"))).await;
        ok(&mut other, "RESUME app").await;
        assert_eq!(
            psql.until_ready().await,
            refused("PAUSE was ended by RESUME")
        );
    });
}

#[test]
fn kill_pauses_and_ends_clients_and_resume_undoes_it() {
    on_a_worker(async {
        let test = TestConsole::new();
        let (alice, _) = test.client("app", "alice");
        let (bob, _) = test.client("other", "bob");
        let mut psql = test.connect("root").await;
        ok(&mut psql, "KILL app").await;
        assert!(alice.take_signals().contains(Signal::Kill));
        assert!(bob.take_signals().is_empty());
        assert!(
            test.pool("app", "alice").view().paused && !test.pool("other", "bob").view().paused
        );
        ok(&mut psql, "KILL").await;
        assert!(bob.take_signals().contains(Signal::Kill));
        ok(&mut psql, "RESUME").await;
        assert!(!test.console.pools.is_paused(Some("app")));
        assert!(!test.pool("other", "bob").view().paused);
    });
}

#[test]
fn kill_client_finds_clients_of_pools_and_of_the_console() {
    on_a_worker(async {
        let test = TestConsole::new();
        let (client, _) = test.client("app", "alice");
        let (mut psql, mut other) = (test.connect("root").await, test.connect("monitor").await);
        ok(&mut psql, "KILL_CLIENT 1").await;
        assert!(client.take_signals().contains(Signal::Kill));
        ok(&mut psql, "KILL_CLIENT 3").await;
        let reason = "terminating connection due to administrator command";
        assert_eq!(other.next().await, Some(Reply::error("57P01", reason)));
        assert_eq!(other.next().await, None);
        assert_eq!(
            psql.query("KILL_CLIENT 3").await,
            refused("client not found")
        );
    });
}

#[test]
fn databases_are_closed_to_new_clients_and_opened() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("root").await;
        ok(&mut psql, "DISABLE app").await;
        assert!(test.console.pools.is_disabled("app") && !test.console.pools.is_disabled("other"));
        ok(&mut psql, "ENABLE app").await;
        assert!(!test.console.pools.is_disabled("app"));
    });
}

#[test]
fn reconnect_and_wait_close_without_servers() {
    on_a_worker(async {
        let test = TestConsole::new();
        let _pool = test.pool("app", "alice");
        let mut psql = test.connect("root").await;
        for command in ["RECONNECT", "RECONNECT app", "WAIT_CLOSE", "WAIT_CLOSE app"] {
            ok(&mut psql, command).await;
        }
    });
}

#[test]
fn databases_that_are_not_there_and_the_console_itself_are_refused() {
    on_a_worker(async {
        let test = TestConsole::configured(ONLY_APP);
        let mut psql = test.connect("root").await;
        for (command, verb) in [
            ("PAUSE", "pause"),
            ("RESUME", "resume"),
            ("KILL", "kill"),
            ("RECONNECT", "reconnect"),
            ("WAIT_CLOSE", "wait in"),
            ("DISABLE", "disable"),
            ("ENABLE", "enable"),
        ] {
            let replies = psql.query(&format!("{command} nowhere")).await;
            assert_eq!(replies, refused("no such database: nowhere"), "{command}");
            for name in ["pgbouncer", "pgweir"] {
                let replies = psql.query(&format!("{command} {name}")).await;
                let expected = format!("cannot {verb} admin db: {name}");
                assert_eq!(replies, refused(&expected), "{command}");
            }
        }
        assert!(!test.console.pools.is_paused(Some("nowhere")));
    });
}

#[test]
fn stats_users_are_kept_from_everything_here() {
    on_a_worker(async {
        let test = TestConsole::new();
        let (client, _) = test.client("app", "alice");
        let mut psql = test.connect("monitor").await;
        for command in [
            "PAUSE",
            "KILL",
            "KILL_CLIENT 1",
            "DISABLE app",
            "RELOAD",
            "SET a = b",
        ] {
            assert_eq!(
                psql.query(command).await,
                refused("admin access needed"),
                "{command}"
            );
        }
        assert!(client.take_signals().is_empty() && !test.console.pools.is_paused(None));
        assert_eq!(psql.query("SHOW VERSION").await.len(), 3);
    });
}

#[test]
fn what_the_console_cannot_do_is_asked_of_the_process() {
    on_a_worker(async {
        let mut test = TestConsole::new();
        let mut psql = test.connect("root").await;

        psql.ask("RELOAD").await;
        let Some(ControlRequest::Reload(reply)) = test.requests.recv().await else {
            panic!("not a RELOAD")
        };
        let waits = "listen_port waits for a restart".to_owned();
        reply.send(Ok(vec![waits.clone()])).expect("it is awaited");
        let expected = [Reply::Notice(waits), Reply::complete("RELOAD")];
        assert_eq!(psql.until_ready().await, expected);

        psql.ask("RELOAD").await;
        let Some(ControlRequest::Reload(reply)) = test.requests.recv().await else {
            panic!("not a RELOAD")
        };
        reply.send(Err("line 7".to_owned())).expect("it is awaited");
        let failed = "RELOAD failed, see logs for additional details";
        assert_eq!(psql.until_ready().await, [Reply::error("F0000", failed)]);

        psql.ask("SET Max_Client_Conn TO '5'").await;
        let Some(ControlRequest::Set { key, value, reply }) = test.requests.recv().await else {
            panic!("not a SET")
        };
        assert_eq!((&*key, &*value), ("max_client_conn", "5"));
        reply.send(Ok(Vec::new())).expect("it is awaited");
        assert_eq!(
            psql.until_ready().await,
            [Reply::complete("SET max_client_conn=5")]
        );

        psql.ask("SET listen_port = 1").await;
        let Some(ControlRequest::Set { reply, .. }) = test.requests.recv().await else {
            panic!("not a SET")
        };
        reply
            .send(Err("restart".to_owned()))
            .expect("it is awaited");
        assert_eq!(psql.until_ready().await, refused("SET failed"));
    });
}

#[test]
fn shutdown_in_its_three_forms() {
    on_a_worker(async {
        let mut test = TestConsole::new();
        let mut psql = test.connect("root").await;
        for (text, expected) in [
            ("SHUTDOWN WAIT_FOR_SERVERS", ShutdownMode::WaitForServers),
            ("SHUTDOWN WAIT_FOR_CLIENTS", ShutdownMode::WaitForClients),
        ] {
            assert_eq!(psql.query(text).await, [Reply::complete("SHUTDOWN")]);
            let request = test.requests.recv().await;
            assert!(matches!(request, Some(ControlRequest::Shutdown(mode)) if mode == expected));
        }
        psql.ask("SHUTDOWN").await;
        let request = test.requests.recv().await;
        let at_once = ShutdownMode::Immediate;
        assert!(matches!(request, Some(ControlRequest::Shutdown(mode)) if mode == at_once));
        // It is not answered: the connection ends with the process.
        test.console.sessions.close();
        assert!(matches!(psql.next().await, Some(Reply::Error(state, _)) if state == "57P01"));
    });
}
