use super::*;
use crate::config::Config;

fn settings(text: &str) -> std::sync::Arc<PoolSettings> {
    let toml = format!("[pool]\n{text}\n[databases.d]\nservers = [{{ host = \"h\" }}]\n");
    let config = Config::parse(&toml, std::path::Path::new("/"), &|_| None).unwrap();
    config.database("d").unwrap().settings.clone()
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn age_is_that_of_the_oldest_position_not_reached() {
    let (mut standby, start) = (Fitness::default(), Instant::now());
    let at = |time| start + seconds(time);
    for (position, time) in [(100, 0), (200, 10), (300, 20)] {
        standby.on_primary(Lsn(position), at(time));
    }
    let lag = |bytes, age| Lag {
        bytes,
        age: seconds(age),
    };
    standby.on_replayed(Lsn(99));
    assert_eq!(standby.lag(at(30)), lag(201, 30));
    standby.on_replayed(Lsn(100));
    assert_eq!(standby.lag(at(30)), lag(200, 20));
    standby.on_replayed(Lsn(250));
    assert_eq!(standby.lag(at(30)), lag(50, 10));
    standby.on_replayed(Lsn(300));
    assert_eq!(standby.lag(at(1000)), lag(0, 0), "it has all there is");
    standby.on_primary(Lsn(300), at(1000));
    assert_eq!(standby.lag(at(1000)), lag(0, 0));
}

#[test]
fn what_it_says_itself_is_believed_within_what_is_known() {
    let (mut standby, start) = (Fitness::default(), Instant::now());
    let at = |time| start + seconds(time);
    let age = |standby: &Fitness, time| standby.lag(at(time)).age;
    // Nothing else is known of one that was behind from the beginning.
    standby.on_primary(Lsn(200), at(0));
    standby.on_replayed(Lsn(100));
    standby.on_delay(Some(seconds(3600)));
    assert_eq!(age(&standby, 1), seconds(3600));
    // Nobody wrote for an hour; the first write after that is not replayed yet.
    standby.on_replayed(Lsn(200));
    standby.on_primary(Lsn(200), at(3600));
    standby.on_primary(Lsn(300), at(3605));
    assert_eq!(age(&standby, 3606), seconds(6), "so new is what it shows");
    // It receives nothing any more, and thinks that it has replayed all.
    standby.on_delay(Some(Duration::ZERO));
    assert_eq!(age(&standby, 3665), seconds(60));
}

#[test]
fn a_long_time_behind_takes_little_memory_and_is_not_forgotten() {
    let (mut standby, start) = (Fitness::default(), Instant::now());
    for time in 0..10_000 {
        standby.on_primary(Lsn(time + 1), start + seconds(time));
    }
    assert!(standby.ahead.len() <= SAMPLES);
    assert_eq!(standby.lag(start + seconds(10_000)).age, seconds(10_000));
    standby.on_replayed(Lsn(9_000));
    let age = standby.lag(start + seconds(10_000)).age;
    assert!((seconds(300)..=seconds(1000)).contains(&age), "{age:?}");
}

#[test]
fn limits_of_lag_are_settings() {
    let (mut standby, start) = (Fitness::default(), Instant::now());
    standby.on_primary(Lsn(1000), start);
    standby.on_replayed(Lsn(0));
    let mut is_lagging = |text, time| {
        standby.judge_lag(start + seconds(time), &settings(text));
        standby.is_lagging()
    };
    assert!(!is_lagging("max_lag = \"30s\"", 30));
    assert!(is_lagging("max_lag = \"30s\"", 31));
    assert!(!is_lagging("max_lag = 0", 31));
    assert!(!is_lagging("max_lag = 0\nmax_lag_bytes = 1000", 31));
    assert!(is_lagging("max_lag = 0\nmax_lag_bytes = 999", 31));
}

#[test]
fn who_keeps_failing_is_left_out_longer_each_time_up_to_tenfold() {
    let settings = settings("ejection_failures = 2\nejection_time = \"10s\"");
    let (mut standby, mut now) = (Fitness::default(), Instant::now());
    standby.on_failure(now, &settings);
    assert!(!standby.is_ejected(now));
    for expected in [10, 20, 40, 80, 100, 100] {
        while !standby.is_ejected(now) {
            standby.on_failure(now, &settings);
        }
        assert_eq!(standby.back_in(now), Some(seconds(expected)));
        now += seconds(expected);
        assert!(!standby.is_ejected(now));
        standby.on_success(now, &settings);
    }
    // After as long a time without a failure, all is forgiven.
    now += seconds(100);
    standby.on_success(now, &settings);
    standby.on_failure(now, &settings);
    standby.on_failure(now, &settings);
    assert_eq!(standby.back_in(now), Some(seconds(10)));
}

#[test]
fn failures_count_in_a_row_only() {
    let settings = settings("ejection_failures = 2\nhealth_check_interval = \"5s\"");
    let (mut standby, mut now) = (Fitness::default(), Instant::now());
    for _ in 0..10 {
        standby.on_failure(now, &settings);
        // At once proves nothing, an interval later it does.
        standby.on_success(now, &settings);
        now += seconds(5);
        standby.on_success(now, &settings);
        assert!(!standby.is_ejected(now));
    }
    standby.on_failure(now, &settings);
    standby.on_success(now, &settings);
    standby.on_failure(now, &settings);
    assert!(standby.is_ejected(now));
}

#[test]
fn who_was_away_gets_its_share_back_slowly() {
    let settings = settings("slow_start = \"10s\"");
    let (mut standby, start) = (Fitness::default(), Instant::now());
    let at = |time| start + seconds(time);
    assert_eq!(standby.share(at(0), &settings), 1000, "it was never away");
    standby.on_away(at(0));
    assert_eq!(standby.share(at(100), &settings), 100);
    assert!(standby.is_starting());
    assert_eq!(standby.share(at(105), &settings), 550);
    assert_eq!(standby.share(at(110), &settings), 1000);
    assert!(!standby.is_starting());
    // For a moment, and it was not restarted: its caches are warm.
    standby.on_away(at(200));
    assert_eq!(standby.share(at(201), &settings), 1000);
    standby.on_away(at(300));
    standby.on_restart();
    assert_eq!(standby.share(at(301), &settings), 100);
    let at_once = self::settings("slow_start = 0");
    assert_eq!(standby.share(at(301), &at_once), 1000);
}
