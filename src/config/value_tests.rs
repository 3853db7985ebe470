use super::*;

fn read<T: Value>(toml: &str) -> Result<T, Wrong> {
    let value = DeValue::parse(toml).unwrap();
    let context = Context {
        base_dir: Path::new("/etc/pgweir"),
        variable: &|name| (name == "PORT").then(|| "7000".to_owned()),
    };
    T::read(value.get_ref(), &context)
}

fn refused<T: Value>(toml: &str) -> String {
    match read::<T>(toml) {
        Err(Wrong::Value { found, .. }) => found,
        Err(Wrong::Environment(name)) => format!("unset {name}"),
        Ok(value) => panic!("{toml} was read as {}", value.show()),
    }
}

#[test]
fn numbers_may_come_from_the_environment() {
    assert_eq!(read::<u16>("\"${PORT}\"").unwrap(), 7000);
    assert_eq!(read::<u16>("0x1b58").unwrap(), 7000);
    assert_eq!(refused::<u16>("\"${NOPE}\""), "unset NOPE");
    assert_eq!(refused::<u16>("65536"), "65536");
    assert_eq!(refused::<u16>("-1"), "-1");
    assert_eq!(refused::<usize>("1000001"), "1000001");
    assert_eq!(refused::<usize>("1.5"), "1.5");
    assert_eq!(refused::<usize>("[1]"), "a list");
    assert_eq!(
        refused::<usize>("99999999999999999999999999999999999999999999"),
        "9".repeat(44)
    );
}

#[test]
fn an_error_quotes_what_was_written_and_not_what_it_expands_to() {
    assert_eq!(refused::<bool>("\"${PORT}\""), "\"${PORT}\"");
    let long = format!("\"{}\"", "x".repeat(500));
    assert!(refused::<bool>(&long).len() < 80);
}

#[test]
fn nought_is_none_where_it_can_be() {
    assert_eq!(read::<Option<Duration>>("0").unwrap(), None);
    assert_eq!(read::<Option<Duration>>("\"off\"").unwrap(), None);
    assert_eq!(
        read::<Option<Duration>>("\"5s\"").unwrap(),
        Some(Duration::from_secs(5))
    );
    assert_eq!(
        read::<Option<Duration>>("0.2").unwrap(),
        Some(Duration::from_millis(200))
    );
    assert_eq!(read::<Duration>("0").unwrap(), Duration::ZERO);
    assert_eq!(refused::<Duration>("\"off\""), "\"off\"");
    assert_eq!(refused::<Option<Duration>>("\"soon\""), "\"soon\"");
    assert_eq!(read::<Option<usize>>("0").unwrap(), None);
    assert_eq!(read::<Option<u64>>("\"64MB\"").unwrap(), Some(64 << 20));
    assert_eq!(read::<Option<String>>("\"\"").unwrap(), None);
}

#[test]
fn lists_are_lists_or_comma_separated() {
    let want = vec!["a".to_owned(), "b c".to_owned()];
    assert_eq!(read::<Vec<String>>("\"a, b c,\"").unwrap(), want);
    assert_eq!(read::<Vec<String>>("[\"a\", \"b c\", \"\"]").unwrap(), want);
    assert_eq!(refused::<Vec<String>>("[\"a\", 1]"), "a list");
}

#[test]
fn paths_start_at_the_file() {
    let path = |text: &str| read::<Option<PathBuf>>(text).unwrap().unwrap();
    assert_eq!(path("\"tls/key\""), Path::new("/etc/pgweir/tls/key"));
    assert_eq!(path("\"/run/x\""), Path::new("/run/x"));
    assert_eq!(path("\"@pgweir\""), Path::new("@pgweir"));
}

#[test]
fn file_modes_are_octal_or_refused() {
    assert_eq!(read::<FileMode>("\"0770\"").unwrap(), FileMode(0o770));
    assert_eq!(read::<FileMode>("0o770").unwrap(), FileMode(0o770));
    assert_eq!(refused::<FileMode>("770"), "770");
    assert_eq!(refused::<FileMode>("\"01777\""), "\"01777\"");
    assert_eq!(FileMode(0o70).show(), "0070");
}

#[test]
fn percentages_stay_within_a_whole() {
    let tenth = read::<Percent>("\"10%\"").unwrap();
    assert_eq!(
        tenth.of(Duration::from_secs(3600)),
        Duration::from_secs(360)
    );
    assert_eq!(
        read::<Percent>("100").unwrap().of(Duration::MAX / 2),
        Duration::MAX / 2 / 100 * 100
    );
    assert_eq!(refused::<Percent>("\"101%\""), "\"101%\"");
}
