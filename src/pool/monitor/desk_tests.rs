use super::*;
use crate::{
    config::{Config, Role},
    pool::monitor::probe::{Finding, Report},
    route::{Host, Topology},
    server::observe::Identity,
};

/// A desk without probes: the test asks and answers.
struct Bench {
    desk: Desk,
    watch: Arc<Watch>,
    asked: Vec<mpsc::UnboundedReceiver<Question>>,
    now: Instant,
}

impl Bench {
    fn new(roles: &[Role]) -> Self {
        let toml = "[databases.d]\nservers = [{ host = \"h\" }]\n";
        let config = Config::parse(toml, std::path::Path::new("/"), &|_| None).unwrap();
        let settings = config.database("d").unwrap().settings.clone();
        let hosts = roles.iter().map(|role| Host::new("h", *role, 1, None));
        let watch = Watch::new(Topology::new(hosts.collect()), Arc::default());
        let (ask, asked) = roles.iter().map(|_| mpsc::unbounded_channel()).unzip();
        Self {
            desk: Desk::new("d".into(), Arc::clone(&watch), ask, settings),
            watch,
            asked,
            now: Instant::now(),
        }
    }

    fn report(&mut self, host: HostId, link: u64, finding: Finding) {
        let report = Report {
            host,
            link,
            finding,
        };
        self.desk.take(report, self.now);
        self.turn();
    }

    fn turn(&mut self) -> Instant {
        self.desk.heed_doubts(self.now);
        self.desk.publish(self.now);
        self.desk.ask_around(self.now, false)
    }

    /// What is asked of a host, if anything: whether numbered, whether a look.
    fn asked(&mut self, host: HostId) -> Option<(bool, bool)> {
        let question = self.asked[host].try_recv().ok()?;
        Some((question.is_numbered, question.is_look))
    }

    /// Answers a numbered poll that was just asked for.
    fn answer(&mut self, host: HostId, link: u64, lsn: u64) -> Poll {
        assert_eq!(self.asked(host), Some((true, false)));
        let poll = self.watch.topology.polls.send();
        self.report(host, link, Finding::Moved(at(false, lsn), Some(poll)));
        poll
    }

    fn states(&self) -> Vec<HostState> {
        let hosts = self.watch.topology.hosts().iter();
        hosts.map(Host::state).collect()
    }
}

fn at(in_recovery: bool, lsn: u64) -> Position {
    let lsn = Some(lsn);
    Position { in_recovery, lsn }
}

fn sight(in_recovery: bool, timeline: u32, lsn: u64) -> Sight {
    let identity = Identity {
        in_recovery,
        system: Some(1),
        timeline: Some(timeline),
        started: 9,
        version: 150_000,
        wal_page: 8192,
    };
    let position = at(in_recovery, lsn);
    Sight {
        identity,
        position,
        delay: None,
    }
}

/// A primary at 1000 and a standby at 900.
fn pair() -> Bench {
    let mut bench = Bench::new(&[Role::Auto, Role::Auto]);
    bench.report(0, 1, Finding::Met(sight(false, 1, 1000)));
    assert_eq!(bench.states(), [HostState::Unknown, HostState::Unknown]);
    bench.report(1, 1, Finding::Met(sight(true, 1, 900)));
    assert_eq!(bench.states(), [HostState::Primary, HostState::Replica]);
    bench.answer(0, 1, 1000);
    bench
}

#[tokio::test]
async fn a_standby_is_asked_until_it_is_where_the_primary_was() {
    let mut bench = pair();
    assert_eq!(bench.asked(1), Some((false, false)));
    bench.report(1, 1, Finding::Moved(at(true, 999), None));
    assert_eq!(bench.asked(1), None, "not at once");
    bench.now += Duration::from_millis(5);
    bench.turn();
    assert_eq!(bench.asked(1), Some((false, false)));
    bench.report(1, 1, Finding::Moved(at(true, 1000), None));
    bench.now += Duration::from_millis(5);
    let next = bench.turn();
    assert_eq!((bench.asked(0), bench.asked(1)), (None, None));
    assert!(
        next > bench.now + Duration::from_secs(4),
        "nobody wants anything"
    );
    assert_eq!(bench.watch.topology.hosts()[1].replayed(), Lsn(1000));
}

#[tokio::test]
async fn a_poll_is_sent_for_those_that_the_last_one_does_not_serve() {
    let mut bench = pair();
    let polls = &bench.watch.topology.polls;
    let wanted = polls.next();
    bench.watch.want(wanted);
    bench.now += Duration::from_millis(10);
    bench.turn();
    let poll = bench.answer(0, 1, 1100);
    assert_eq!(poll, wanted);
    bench.now += Duration::from_millis(10);
    bench.turn();
    assert_eq!(bench.asked(0), None);
}

#[tokio::test]
async fn an_answer_of_the_old_primary_counts_no_more() {
    let mut bench = pair();
    bench.watch.want(bench.watch.topology.polls.next());
    bench.now += Duration::from_millis(10);
    bench.turn();
    assert_eq!(bench.asked(0), Some((true, false)));
    let late = bench.watch.topology.polls.send();
    // In the meantime the other one is promoted.
    bench.report(1, 1, Finding::Looked(sight(false, 2, 1200), None));
    assert_eq!(bench.watch.topology.primary(), Some(1));
    assert_eq!(bench.states(), [HostState::Fenced, HostState::Primary]);
    bench.report(0, 1, Finding::Moved(at(false, 5000), Some(late)));
    assert_eq!(bench.watch.topology.position(late), None);
    bench.asked(1).expect("the question from before");
    bench.report(1, 1, Finding::Moved(at(true, 1200), None));
    bench.now += Duration::from_millis(10);
    bench.turn();
    bench.answer(1, 1, 1200);
    assert_eq!(bench.watch.topology.position(late), Some(Lsn(1200)));
}

#[tokio::test]
async fn a_primary_that_was_lost_is_asked_anew_before_anything_is_told() {
    let mut bench = pair();
    let known = bench.watch.topology.polls.last_done();
    bench.report(0, 1, Finding::Lost("gone".to_owned()));
    assert_eq!(bench.states()[0], HostState::Primary, "it may be there yet");
    assert_eq!(bench.watch.topology.position(known), Some(Lsn(1000)));
    // The same history, as far as it tells.
    bench.report(0, 2, Finding::Met(sight(false, 1, 950)));
    assert_eq!(bench.watch.topology.position(known), None);
    bench.now += Duration::from_millis(10);
    bench.turn();
    bench.answer(0, 2, 950);
    assert_eq!(bench.watch.topology.position(known), Some(Lsn(950)));

    bench.report(0, 2, Finding::Lost("gone".to_owned()));
    bench.report(0, 3, Finding::Lost("nobody listens".to_owned()));
    assert_eq!(bench.states()[0], HostState::Down);
    assert_eq!(bench.watch.topology.primary(), None);
    bench.report(0, 4, Finding::Met(sight(false, 1, 960)));
    assert_eq!(bench.watch.topology.primary(), Some(0));
    assert_eq!(bench.watch.topology.position(known), None);
}

#[tokio::test]
async fn what_comes_from_an_earlier_connection_is_not_heard() {
    let mut bench = pair();
    bench.report(1, 1, Finding::Lost("gone".to_owned()));
    assert_eq!(bench.states()[1], HostState::Down);
    bench.report(1, 2, Finding::Met(sight(true, 1, 950)));
    bench.report(1, 1, Finding::Moved(at(true, 99_999), None));
    assert_eq!(bench.watch.topology.hosts()[1].replayed(), Lsn(950));
    assert_eq!(bench.states()[1], HostState::Replica);
}

#[tokio::test]
async fn a_doubted_standby_serves_after_a_look_that_is_newer_than_the_doubt() {
    let mut bench = pair();
    assert_eq!(bench.asked(1), Some((false, false)));
    bench.watch.doubt(1);
    bench.turn();
    bench.report(1, 1, Finding::Moved(at(true, 1000), None));
    assert_eq!(bench.states()[1], HostState::Down, "asked before the doubt");
    bench.now += Duration::from_millis(20);
    bench.turn();
    assert_eq!(bench.asked(1), Some((false, true)));
    bench.report(1, 1, Finding::Looked(sight(true, 1, 1000), None));
    assert_eq!(bench.states()[1], HostState::Replica);
}

#[tokio::test]
async fn a_standby_on_another_timeline_serves_when_it_has_followed() {
    let mut bench = pair();
    bench.report(0, 1, Finding::Looked(sight(false, 2, 2000), None));
    assert_eq!(bench.states(), [HostState::Primary, HostState::Foreign]);
    bench.report(1, 1, Finding::Looked(sight(true, 2, 1900), None));
    assert_eq!(bench.states()[1], HostState::Replica);
    // What it tells without its WAL receiver is older, and does not undo that.
    bench.report(1, 1, Finding::Looked(sight(true, 1, 1950), None));
    assert_eq!(bench.states()[1], HostState::Replica);
}
