use super::*;

const SYSTEM: u64 = 7;

fn identity(in_recovery: bool, timeline: u32) -> Identity {
    Identity {
        in_recovery,
        system: Some(SYSTEM),
        timeline: Some(timeline),
        started: 100,
        version: 150_000,
        wal_page: 8192,
    }
}

fn met(identity: Identity) -> Contact {
    Contact::Met(identity)
}

fn writer(timeline: u32) -> Contact {
    met(identity(false, timeline))
}

fn standby(timeline: u32) -> Contact {
    met(identity(true, timeline))
}

fn of_system(system: u64, contact: Contact) -> Contact {
    let system = Some(system);
    let identity = contact.identity().unwrap();
    met(Identity { system, ..identity })
}

fn history(timeline: u32) -> Option<History> {
    history_of(&identity(false, timeline))
}

fn before(primary: Option<HostId>, timeline: Option<u32>) -> Before {
    Before {
        primary,
        history: timeline.and_then(history),
    }
}

const NOTHING: Before = Before {
    primary: None,
    history: None,
};

fn rule(hosts: &[(Role, Contact)], before: Before) -> Ruling {
    let facts = hosts.iter().map(|(role, contact)| Facts {
        role: *role,
        contact: *contact,
    });
    judge(&facts.collect::<Vec<_>>(), before)
}

/// One letter a host: what the ruling says of it.
fn letters(ruling: &Ruling) -> String {
    let letter = |standing: &Standing| match standing {
        Standing::Unknown => '?',
        Standing::Primary => 'P',
        Standing::Standby => 's',
        Standing::Down => '-',
        Standing::Fenced(_) => 'F',
        Standing::Foreign(_) => 'x',
    };
    ruling.standings.iter().map(letter).collect()
}

/// What is seen, what held, who takes writes then, what each is, and whether that is disputed.
type Case<'a> = (&'a [(Role, Contact)], Before, Option<HostId>, &'a str, bool);

fn check(cases: &[Case<'_>]) {
    for (hosts, before, primary, standings, is_disputed) in cases {
        let ruling = rule(hosts, *before);
        let found = (ruling.primary, &*letters(&ruling), ruling.is_disputed);
        assert_eq!(found, (*primary, *standings, *is_disputed), "{hosts:?}");
    }
}

use Contact::{Lost, Never};
use Role::{Auto, Primary, Replica};

#[test]
fn roles_are_observed() {
    check(&[
        // As configured.
        (
            &[(Primary, writer(1)), (Replica, standby(1))],
            before(Some(0), None),
            Some(0),
            "Ps",
            false,
        ),
        (
            &[(Auto, standby(1)), (Auto, writer(1)), (Auto, Lost)],
            NOTHING,
            Some(1),
            "sP-",
            false,
        ),
        // A configured primary is believed until it is seen, and asked even when it is down.
        (
            &[(Primary, Never), (Replica, standby(1))],
            NOTHING,
            Some(0),
            "?s",
            false,
        ),
        (
            &[(Primary, Lost), (Replica, standby(1))],
            before(Some(0), Some(1)),
            Some(0),
            "-s",
            false,
        ),
        // But not as a standby.
        (
            &[(Primary, standby(1)), (Replica, standby(1))],
            before(Some(0), Some(1)),
            None,
            "ss",
            false,
        ),
        // An observed one is not.
        (
            &[(Auto, Lost), (Auto, standby(1))],
            before(Some(0), Some(1)),
            None,
            "-s",
            false,
        ),
        // A broken connection alone dethrones nobody; a standby behind one serves nothing.
        (
            &[
                (Auto, Contact::Broken(identity(false, 1))),
                (Auto, standby(1)),
            ],
            before(Some(0), Some(1)),
            Some(0),
            "Ps",
            false,
        ),
        (
            &[
                (Auto, writer(1)),
                (Auto, Contact::Broken(identity(true, 1))),
            ],
            before(Some(0), Some(1)),
            Some(0),
            "P-",
            false,
        ),
        // A configured replica never takes writes.
        (
            &[(Primary, writer(1)), (Replica, writer(2))],
            before(Some(0), Some(1)),
            Some(0),
            "PF",
            false,
        ),
        (
            &[(Auto, Lost), (Replica, writer(2))],
            before(Some(0), Some(1)),
            None,
            "-F",
            false,
        ),
        // A lone server is what it is asked to be.
        (
            &[(Auto, Lost)],
            before(Some(0), Some(1)),
            Some(0),
            "-",
            false,
        ),
        (
            &[(Auto, standby(1))],
            before(Some(0), None),
            Some(0),
            "s",
            false,
        ),
        (
            &[(Auto, of_system(8, writer(1)))],
            before(Some(0), Some(3)),
            Some(0),
            "P",
            false,
        ),
    ]);
}

#[test]
fn the_newest_of_several_primaries_wins() {
    check(&[
        // Promoted while the old one went on.
        (
            &[(Auto, writer(1)), (Auto, writer(2))],
            before(Some(0), Some(1)),
            Some(1),
            "FP",
            false,
        ),
        (
            &[(Primary, writer(1)), (Auto, writer(2))],
            before(Some(0), Some(1)),
            Some(1),
            "FP",
            false,
        ),
        // The old one comes back; also when the new one is away.
        (
            &[(Auto, writer(1)), (Auto, writer(2))],
            before(Some(1), Some(2)),
            Some(1),
            "FP",
            false,
        ),
        (
            &[(Auto, writer(1)), (Auto, Lost)],
            before(None, Some(2)),
            None,
            "F-",
            false,
        ),
        (
            &[(Primary, writer(1)), (Auto, Lost)],
            before(None, Some(2)),
            None,
            "F-",
            false,
        ),
        // Before any was seen, the first one to be found is not the newest yet.
        (
            &[(Auto, writer(1)), (Auto, Never)],
            NOTHING,
            None,
            "??",
            false,
        ),
        (
            &[(Auto, writer(1)), (Auto, Lost)],
            NOTHING,
            Some(0),
            "P-",
            false,
        ),
        (
            &[(Auto, writer(1)), (Replica, Never)],
            NOTHING,
            Some(0),
            "P?",
            false,
        ),
        // Equally new: whoever was there stays.
        (
            &[(Auto, writer(2)), (Auto, writer(2))],
            before(Some(1), Some(2)),
            Some(1),
            "FP",
            true,
        ),
        (
            &[(Auto, writer(2)), (Auto, writer(2))],
            before(None, Some(1)),
            None,
            "FF",
            true,
        ),
        (
            &[(Auto, writer(1)), (Auto, writer(2)), (Auto, writer(2))],
            before(Some(0), Some(1)),
            None,
            "FFF",
            true,
        ),
        // Different data, and nothing tells whose is right.
        (
            &[(Auto, writer(1)), (Auto, of_system(8, writer(5)))],
            NOTHING,
            None,
            "Fx",
            true,
        ),
        (
            &[(Primary, writer(1)), (Auto, of_system(8, writer(5)))],
            before(Some(0), None),
            Some(0),
            "Px",
            true,
        ),
    ]);
}

#[test]
fn other_data_takes_no_place() {
    let held = before(None, Some(1));
    // A stranger does not stand in for a primary that is down.
    let stranger = of_system(8, writer(9));
    let ruling = rule(&[(Auto, Lost), (Auto, stranger)], held);
    assert_eq!((ruling.primary, &*letters(&ruling)), (None, "-x"));
    // Nor does it win against one that is up.
    let ruling = rule(
        &[(Auto, writer(1)), (Auto, stranger)],
        before(Some(0), Some(1)),
    );
    assert_eq!((ruling.primary, &*letters(&ruling)), (Some(0), "Px"));
    assert!(!ruling.is_disputed, "it is known whose data are right");
    // Where the operator says so, or nobody is left who has the old data, it does.
    let ruling = rule(&[(Primary, stranger), (Replica, standby(1))], held);
    assert_eq!((ruling.primary, &*letters(&ruling)), (Some(0), "Px"));
    let ruling = rule(&[(Auto, stranger), (Auto, of_system(8, standby(9)))], held);
    assert_eq!((ruling.primary, &*letters(&ruling)), (Some(0), "Ps"));
}

#[test]
fn a_standby_must_be_of_the_primarys_system_and_timeline() {
    let standing = |contact| {
        let hosts = [(Auto, writer(2)), (Auto, contact)];
        rule(&hosts, before(Some(0), Some(2))).standings[1]
    };
    assert_eq!(standing(standby(2)), Standing::Standby);
    let timeline = |own| Standing::Foreign(Difference::Timeline { own, expected: 2 });
    assert_eq!(standing(standby(1)), timeline(1));
    assert_eq!(standing(standby(3)), timeline(3));
    let (own, expected) = (8, SYSTEM);
    let system = Standing::Foreign(Difference::System { own, expected });
    assert_eq!(standing(of_system(8, standby(2))), system);
    // What it keeps to itself is no difference.
    let silent = Identity {
        system: None,
        timeline: None,
        ..identity(true, 2)
    };
    assert_eq!(standing(met(silent)), Standing::Standby);

    // Without a primary, the last one counts; without any, only the system does.
    let hosts = [(Auto, Lost), (Auto, standby(1)), (Auto, standby(2))];
    assert_eq!(letters(&rule(&hosts, before(None, Some(2)))), "-xs");
    assert_eq!(letters(&rule(&hosts, NOTHING)), "-ss");
    let hosts = [(Auto, standby(1)), (Auto, of_system(8, standby(1)))];
    assert_eq!(letters(&rule(&hosts, NOTHING)), "sx");
}

#[test]
fn history_is_that_of_the_last_primary_that_was_seen() {
    let hosts = [(Auto, standby(1)), (Auto, writer(2))];
    assert_eq!(rule(&hosts, before(Some(0), Some(1))).history, history(2));
    let hosts = [(Auto, Lost), (Auto, standby(2))];
    assert_eq!(rule(&hosts, before(Some(0), Some(2))).history, history(2));
    let restarted = Identity {
        started: 200,
        ..identity(false, 1)
    };
    let ruling = rule(&[(Primary, met(restarted))], before(Some(0), Some(1)));
    assert_eq!(ruling.history.unwrap().started, 200);
    assert_eq!(rule(&[(Primary, Lost)], NOTHING).history, None);
}
