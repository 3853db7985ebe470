//! Properties of the pure session, with a naive PostgreSQL behind it.
//!
//! Whatever clients send, in whatever pieces, over however few servers: each is answered exactly as
//! if it had a PostgreSQL of its own; no server is given back that is not clean in truth; and nothing
//! of one client's session is seen by another.

mod session_support;

use proptest::{prelude::*, sample};
use session_support::pool::{Burst, Pool, Turn, answers_of_its_own};

// ── What clients do ──────────────────────────────────────────────────────────────────────────────

/// Statements that mean the same simple and extended.
const STATEMENTS: &[&str] = &[
    "select 1",
    "select 2",
    "select 1/0",
    "select syntax",
    "select missing",
    "begin",
    "commit",
    "rollback",
    "insert into t values 1",
    "select count from t",
    "set app.x = 'one'",
    "set app.x = 'two'",
    "reset app.x",
    "show app.x",
    "set work_mem = 'much'",
    "show work_mem",
    "set application_name = 'me'",
    "show application_name",
    "set local app.x = 'local'",
    "listen c",
    "unlisten *",
    "select pg_advisory_lock(1)",
    "select pg_advisory_unlock(1)",
    "copy (select 5) to stdout",
    "select hide()",
    "",
];

/// Statements that come in a Query only.
const QUERIES: &[&str] = &[
    "prepare a as select 3",
    "prepare a as select missing",
    "prepare b as select 4",
    "prepare b as insert into t values 2",
    "execute a",
    "execute b",
    "execute pgweir_1",
    "deallocate a",
    "deallocate b",
    "deallocate pgweir_1",
    "deallocate all",
    "discard all",
    "begin; set app.x = 'three'",
    "set app.y = '1'; select 1/0",
    "set app.y = '1'; select 1",
    "show app.y",
    "reset app.y; commit",
    "select 1; begin; select 2",
    "prepare m as select 9; select 8",
    "execute m",
    "deallocate m",
];

fn name() -> impl Strategy<Value = &'static str> {
    sample::select(vec!["\"\"", "\"\"", "a", "b", "nope", "pgweir_1"])
}

fn own_name() -> impl Strategy<Value = &'static str> {
    sample::select(vec!["\"\"", "\"\"", "a", "b"])
}

fn portal() -> impl Strategy<Value = &'static str> {
    sample::select(vec!["\"\"", "\"\"", "\"\"", "p"])
}

fn statement() -> impl Strategy<Value = &'static str> {
    sample::select(STATEMENTS)
}

fn query() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => sample::select(STATEMENTS), 2 => sample::select(QUERIES)]
}

/// COPY data up to its end, with what may be among it. A Sync ends it: what a server does with
/// messages that follow a COPY without one depends on when they arrive.
fn copy_data(within: Vec<&'static str>) -> impl Strategy<Value = Vec<String>> {
    let end = sample::select(vec!["CopyDone", "CopyDone", "CopyFail no"]);
    (prop::collection::vec(sample::select(within), 0..4), end).prop_map(|(within, end)| {
        let lines = within.into_iter().chain([end, "Sync"]);
        lines.map(Into::into).collect()
    })
}

/// How a COPY is begun, simple or extended.
fn copy_start(is_extended: bool) -> impl Strategy<Value = Vec<String>> {
    sample::select(vec!["t", "t", "denied"]).prop_map(move |table| {
        let text = format!("copy {table} from stdin");
        if !is_extended {
            return vec![format!("Query \"{text}\"")];
        }
        // Under names of its own: nobody runs it again without data for it.
        let parse = format!("Parse copy \"{text}\"");
        let lines = [
            "Close S copy",
            "Close P copy",
            &parse,
            "Bind copy copy",
            "Execute copy",
        ];
        lines.map(Into::into).to_vec()
    })
}

/// A COPY of which the client is told before it sends data, and perhaps sends a Sync at once, as some
/// drivers do.
fn announced_copy() -> impl Strategy<Value = Vec<Burst>> {
    let data = || {
        copy_data(vec![
            "CopyData \"r\\n\"",
            "CopyData \"r\\n\"",
            "CopyData !",
            "Flush",
            "Sync",
        ])
    };
    (any::<bool>(), any::<bool>())
        .prop_flat_map(move |(is_extended, syncs)| (copy_start(is_extended), Just(syncs)))
        .prop_flat_map(move |(start, syncs)| (Just(start), Just(syncs), data()))
        .prop_map(|(mut start, syncs, data)| {
            if syncs {
                start.push("Sync".into());
            } else {
                start.push("Flush".into());
            }
            vec![
                Burst {
                    lines: start,
                    waits: true,
                },
                Burst {
                    lines: data,
                    waits: false,
                },
            ]
        })
}

/// A statement under a name of its own, which is not used again.
fn once(text: &str) -> Vec<String> {
    let parse = format!("Parse once \"{text}\"");
    let around = ["Close S once", "Close P once"];
    let lines = around
        .into_iter()
        .chain([&*parse, "Bind once once", "Execute once"]);
    lines.chain(around).map(Into::into).collect()
}

/// A few messages that belong together.
fn group() -> impl Strategy<Value = Vec<String>> {
    let lines = |lines: &[String]| lines.to_vec();
    prop_oneof![
        6 => query().prop_map(move |text| lines(&[format!("Query \"{text}\"")])),
        4 => (own_name(), statement()).prop_map(move |(name, text)| {
            lines(&[format!("Parse {name} \"{text}\"")])
        }),
        4 => (portal(), name()).prop_map(move |(portal, name)| {
            lines(&[format!("Bind {portal} {name}"), format!("Execute {portal}")])
        }),
        3 => (own_name(), statement()).prop_map(move |(name, text)| {
            lines(&[
                format!("Parse {name} \"{text}\""),
                format!("Bind \"\" {name}"),
                "Describe P \"\"".into(),
                "Execute \"\"".into(),
            ])
        }),
        1 => sample::select(vec!["a", "b"]).prop_map(move |name| {
            // It takes effect when it is parsed, so it is not bound at another time.
            lines(&once(&format!("deallocate {name}")))
        }),
        1 => sample::select(vec!["a", "b"]).prop_map(move |name| {
            // What it executes is settled when it is parsed, and has to be on the server still.
            lines(&once(&format!("execute {name}")))
        }),
        2 => name().prop_map(move |name| lines(&[format!("Describe S {name}")])),
        2 => name().prop_map(move |name| lines(&[format!("Close S {name}")])),
        1 => portal().prop_map(move |name| lines(&[format!("Close P {name}")])),
        1 => portal().prop_map(move |name| lines(&[format!("Execute {name}")])),
        // Seldom enough to meet one who looks for it, if it were not for this.
        2 => Just(lines(&["Query \"select hide()\"".into()])),
        1 => Just(lines(&["FunctionCall 1".into()])),
        1 => Just(lines(&["CopyDone".into()])),
        2 => Just(lines(&["Flush".into()])),
        7 => Just(lines(&["Sync".into()])),
        1 => (any::<bool>(), copy_data(vec!["CopyData \"r\\n\"", "CopyData !", "Flush"]))
            .prop_flat_map(|(is_extended, data)| (copy_start(is_extended), Just(data)))
            .prop_map(|(start, data)| start.into_iter().chain(data).collect()),
    ]
}

/// A client's life: it ends outside of a batch.
fn program() -> impl Strategy<Value = Vec<Burst>> {
    let burst = (
        prop::collection::vec(group(), 1..6),
        any::<bool>(),
        any::<bool>(),
    );
    let burst = burst.prop_map(|(groups, syncs, waits)| {
        let mut lines: Vec<String> = groups.into_iter().flatten().collect();
        if syncs {
            lines.push("Sync".into());
        } else if waits {
            // Without one of them, nothing of the batch needs to have left the pooler.
            lines.push("Flush".into());
        }
        vec![Burst { lines, waits }]
    });
    let step = prop_oneof![5 => burst, 1 => announced_copy()];
    prop::collection::vec(step, 1..6).prop_map(|steps| {
        let mut bursts: Vec<Burst> = steps.into_iter().flatten().collect();
        if let Some(last) = bursts.last_mut() {
            last.lines.push("Sync".into());
        }
        bursts
    })
}

/// A program in which no Query is in the middle of a batch, and without COPY: the number of answers
/// is that of its rounds, whatever fails.
fn orderly_program() -> impl Strategy<Value = Vec<Burst>> {
    let round = prop_oneof![
        query().prop_map(|text| vec![format!("Query \"{text}\"")]),
        prop::collection::vec(group(), 1..5).prop_map(|groups| {
            let lines = groups.into_iter().flatten();
            let is_copy = |line: &String| line.contains("opy") || line.starts_with("FunctionCall");
            let lines = lines.filter(|line| !line.starts_with("Query") && !is_copy(line));
            lines.chain(["Sync".into()]).collect()
        }),
    ];
    let burst =
        (prop::collection::vec(round, 1..4), any::<bool>()).prop_map(|(rounds, waits)| Burst {
            lines: rounds.into_iter().flatten().collect(),
            waits,
        });
    prop::collection::vec(burst, 1..6)
}

/// A program with messages that fit no buffer, in both directions.
fn wide_program() -> impl Strategy<Value = Vec<Burst>> {
    let wide = sample::select(vec![
        "Query \"select wide\"",
        "Query \"select wide_error\"",
        "Query \"select \"\"w\"*70000",
        "Parse \"\" \"select 1\"",
        "Bind \"\" \"\" \"p\"*70000",
        "Parse a \"select wide\"",
        "Bind \"\" a",
        "Execute \"\"",
        "Sync",
    ]);
    let wide = prop::collection::vec(wide, 1..6).prop_map(|lines| Burst {
        lines: lines
            .into_iter()
            .map(Into::into)
            .chain(["Sync".into()])
            .collect(),
        waits: true,
    });
    (program(), prop::collection::vec(wide, 0..2)).prop_map(|(mut program, wide)| {
        program.extend(wide);
        for burst in &mut program {
            // It needs no server, and so what follows may find one or not.
            burst.lines.retain(|line| !line.contains("deallocate all"));
        }
        program
    })
}

/// Programs of which only the first hides something, and only the others look for it.
fn programs(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Burst>>> {
    prop::collection::vec(program(), count).prop_map(|mut programs| {
        for burst in programs.iter_mut().skip(1).flatten() {
            for line in &mut burst.lines {
                *line = line.replace("select hide()", "show app.hidden");
            }
        }
        programs
    })
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = (0usize..6, prop_oneof![1usize..4, 1usize..60, Just(100_000)]);
    prop::collection::vec(
        turn.prop_map(|(who, amount)| Turn::Go { who, amount }),
        0..120,
    )
}

/// Whether the client was answered what it should be. A DEALLOCATE that is bound a second time, after
/// it has been run, names the wrong statement.
fn are_alike(lines: &[String], expected: &[String]) -> bool {
    let alike = |(line, expected): (&String, &String)| {
        line == expected || (line.contains("pgweir_taken") && line[..20] == expected[..20])
    };
    lines.len() == expected.len() && lines.iter().zip(expected).all(alike)
}

/// Four times the cases of other properties; PROPTEST_CASES says how many these have.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases * 4,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..default
    }
}

/// What clients with these programs are answered by servers of their own, and how many answers there
/// are to each burst.
fn direct(programs: &[Vec<Burst>]) -> (Vec<Vec<String>>, Vec<Vec<usize>>) {
    programs
        .iter()
        .map(|program| answers_of_its_own(program))
        .unzip()
}

/// Whether all clients that are still there were answered as they should be.
fn check(pool: &Pool, expected: &[Vec<String>], servers: usize) -> Result<(), TestCaseError> {
    let served = pool
        .clients
        .iter()
        .filter(|client| client.has_server())
        .count();
    for (client, expected) in pool
        .clients
        .iter()
        .zip(expected)
        .filter(|(client, _)| !client.is_gone)
    {
        // Clients that keep their servers may keep others waiting for ever.
        let may_starve = served == servers && !client.has_server();
        let count = if may_starve {
            client.lines.len()
        } else {
            expected.len()
        };
        prop_assert!(
            are_alike(&client.lines, &expected[..count.min(expected.len())]),
            "{:#?} not {:#?} of {:#?}",
            client.lines,
            expected,
            client.program
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn clients_of_a_pool_are_answered_as_by_a_server_of_their_own(
        programs in programs(1..4),
        turns in turns(),
        servers in 1usize..3,
        limit in 1usize..4,
    ) {
        let (expected, answers) = direct(&programs);
        let mut pool = Pool::new(&programs, answers, servers, limit);
        pool.play(&turns);
        check(&pool, &expected, servers)?;
    }

    #[test]
    fn whoever_leaves_in_the_middle_of_whatever_leaves_nothing_to_others(
        programs in programs(2..4),
        mut turns in turns(),
        leaves in prop::collection::vec(any::<sample::Index>(), 1..3),
        limit in 1usize..4,
    ) {
        for (client, at) in leaves.iter().enumerate() {
            turns.insert(at.index(turns.len() + 1), Turn::Leave(client));
        }
        let (expected, answers) = direct(&programs);
        let mut pool = Pool::new(&programs, answers, 1, limit);
        pool.play(&turns);
        check(&pool, &expected, 1)?;
    }

    #[test]
    fn every_request_is_answered_once_when_servers_break(
        programs in prop::collection::vec(orderly_program(), 1..3),
        mut turns in turns(),
        breaks in prop::collection::vec(any::<sample::Index>(), 1..4),
    ) {
        for at in breaks {
            turns.insert(at.index(turns.len() + 1), Turn::Break(at.index(2)));
        }
        let rounds = |bursts: &[Burst]| {
            let lines = bursts.iter().flat_map(|burst| &burst.lines);
            lines.filter(|line| line.starts_with("Query") || *line == "Sync").count()
        };
        let rounds_after_each = |program: &Vec<Burst>| {
            (1..=program.len()).map(|count| rounds(&program[..count])).collect()
        };
        let mut pool = Pool::new(&programs, programs.iter().map(rounds_after_each).collect(), 2, 2);
        pool.waits_for_rounds = true;
        pool.play(&turns);
        for client in &pool.clients {
            let (rounds, ready) = (rounds(&client.program), client.rounds());
            if client.is_gone {
                let last = client.lines.last();
                prop_assert!(last.is_some_and(|line| line.starts_with("ErrorResponse FATAL 08006")));
                prop_assert!(ready <= rounds);
            } else {
                prop_assert_eq!(ready, rounds, "{:#?}", client);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_bytes_are_cut_in_pieces_makes_no_difference(
        program in wide_program(),
        mut sizes in prop::collection::vec(prop_oneof![1usize..8, 1usize..100, 1usize..100_000], 1..20),
    ) {
        // Or a wide message would take for ever.
        sizes.push(5_000);
        let programs = [program];
        let (expected, answers) = direct(&programs);
        let mut pools = [&sizes[..], &[usize::MAX]].map(|sizes| {
            let mut pool = Pool::new(&programs, answers.clone(), 1, 2);
            pool.play_in_step(sizes);
            pool
        });
        for pool in &pools {
            check(pool, &expected, 2)?;
        }
        // What waits for an answer is sent when that comes, be it sooner or later.
        if !pools[0].clients[0].has_stalled {
            let [pieces, whole] = pools.each_mut().map(|pool| std::mem::take(&mut pool.sent));
            prop_assert!(pieces == whole, "other bytes are sent to the server");
        }
    }
}
