//! Messages larger than any buffer: they pass through, whole and unchanged, and the pooler does not grow by them.

use tokio::io::AsyncReadExt as _;

use crate::support::{
    self, Pgweir,
    wire::{self, Wire, soon},
};

/// What all large values are made of.
const UNIT: &[u8; 16] = b"0123456789abcdef";
const MEGABYTE: usize = 1 << 20;
const CHUNK: usize = 64 * 1024;

/// What a pooler may grow by, buffers of its own and of its allocator: far below what passes through it.
const GROWTH_KB: u64 = 10 * 1024;

/// The pooler, and what it had in use before the large message.
struct Weighed {
    pooler: Pgweir,
    before_kb: u64,
}

impl Weighed {
    /// Two servers, and everything that is only needed once has been made.
    async fn new() -> Self {
        let pooler = Pgweir::builder(support::postgres()).pool_size(2).start();
        let mut client = Wire::connect(&pooler, "postgres").await;
        let warm = "SELECT repeat('x', 1000000)";
        assert_eq!(client.ask(warm).await.len(), 4);
        let before_kb = pooler.rss_kb();
        Self { pooler, before_kb }
    }

    async fn client(&self) -> Wire {
        Wire::connect(&self.pooler, "postgres").await
    }

    /// It has not grown, not even for a while.
    fn has_not_grown(&self) {
        let growth = self.pooler.peak_rss_kb().saturating_sub(self.before_kb);
        assert!(growth <= GROWTH_KB, "the pooler has grown by {growth} KiB");
    }
}

/// `size` bytes of the repeated unit, in pieces.
fn pieces(size: usize) -> impl Iterator<Item = Vec<u8>> {
    assert_eq!(size % CHUNK, 0);
    std::iter::repeat_n(UNIT.repeat(CHUNK / UNIT.len()), size / CHUNK)
}

/// Reads `size` bytes that must be the repeated unit.
async fn read_units(client: &mut Wire, size: usize) {
    let expected = UNIT.repeat(CHUNK / UNIT.len() + 1);
    let (mut done, mut piece) = (0, vec![0; CHUNK]);
    while done < size {
        let wanted = CHUNK.min(size - done);
        let read = soon("a large value", client.reader.read(&mut piece[..wanted]))
            .await
            .unwrap();
        assert_ne!(read, 0, "closed after {done} bytes");
        let from = done % UNIT.len();
        assert!(
            piece[..read] == expected[from..from + read],
            "changed within {read} bytes behind {done}"
        );
        done += read;
    }
}

/// Reads a row or line of COPY with `prefix` bytes before the units and `suffix` bytes behind them.
async fn read_large(client: &mut Wire, kind: u8, prefix: usize, size: usize, suffix: usize) {
    loop {
        let (found, length) = client.read_header().await.unwrap();
        if found == kind {
            assert_eq!(length, prefix + size + suffix);
            break;
        }
        assert!(matches!(found, b'T' | b'H' | b'2' | b'1'), "{found}");
        let mut skipped = vec![0; length];
        client.reader.read_exact(&mut skipped).await.unwrap();
    }
    let mut around = vec![0; prefix];
    client.reader.read_exact(&mut around).await.unwrap();
    read_units(client, size).await;
    around.resize(suffix, 0);
    client.reader.read_exact(&mut around).await.unwrap();
}

fn repeated(size: usize) -> String {
    let unit = str::from_utf8(UNIT).unwrap();
    format!("repeat('{unit}', {})", size / UNIT.len())
}

#[tokio::test]
async fn a_row_of_256_megabytes_to_a_fast_client() {
    let size = 256 * MEGABYTE;
    let weighed = Weighed::new().await;
    let mut client = weighed.client().await;
    client
        .send(&wire::query(&format!("SELECT {}", repeated(size))))
        .await;
    read_large(&mut client, b'D', 6, size, 0).await;
    assert_eq!(client.answers().await, ["C SELECT 1", "Z I"]);
    weighed.has_not_grown();
}

#[tokio::test]
async fn a_row_of_256_megabytes_to_a_client_that_does_not_read() {
    let size = 256 * MEGABYTE;
    let weighed = Weighed::new().await;
    let mut client = weighed.client().await;
    let sql = format!("COPY (SELECT {} /* slowly */) TO STDOUT", repeated(size));
    client.send(&wire::query(&sql)).await;
    // Once the server cannot write, nobody between it and the client takes any more.
    let stuck = "wait_event = 'ClientWrite' AND query LIKE '%/* slowly */) TO STDOUT'";
    let stuck = format!("SELECT count(*) FROM pg_stat_activity WHERE {stuck}");
    support::postgres()
        .primary()
        .wait_until(&format!("({stuck}) = 1"))
        .unwrap();
    weighed.has_not_grown();
    // And nobody else minds.
    let mut other = weighed.client().await;
    assert_eq!(other.scalar("SELECT 'beside'").await, "beside");
    read_large(&mut client, b'd', 0, size, 1).await;
    assert_eq!(client.answers().await, ["c", "C COPY 1", "Z I"]);
    weighed.has_not_grown();
}

#[tokio::test]
async fn a_line_of_256_megabytes_into_a_table() {
    let size = 256 * MEGABYTE;
    let weighed = Weighed::new().await;
    support::postgres()
        .primary()
        .psql("CREATE UNLOGGED TABLE large_lines (line text)")
        .unwrap();
    let mut client = weighed.client().await;
    client
        .send(&wire::query("COPY large_lines FROM STDIN"))
        .await;
    assert_eq!(client.answer().await, "G");
    client.send(&wire::head(b'd', size + 1)).await;
    for piece in pieces(size) {
        client.send(&piece).await;
    }
    client
        .send(&[b"\n".to_vec(), wire::copy_done()].concat())
        .await;
    assert_eq!(client.answers().await, ["C COPY 1", "Z I"]);
    weighed.has_not_grown();
    let compared = format!(
        "SELECT length(line) = {size} AND md5(line) = md5({}) FROM large_lines",
        repeated(size)
    );
    assert_eq!(client.scalar(&compared).await, "t");
    assert_eq!(
        client.ask("DROP TABLE large_lines").await,
        ["C DROP TABLE", "Z I"]
    );
}

#[tokio::test]
async fn a_query_text_of_64_megabytes() {
    let size = 64 * MEGABYTE;
    let weighed = Weighed::new().await;
    let mut client = weighed.client().await;
    for _ in 0..2 {
        let (start, end) = ("SELECT '", format!("' = {}\0", repeated(size)));
        client
            .send(&wire::head(b'Q', start.len() + size + end.len()))
            .await;
        client.send(start.as_bytes()).await;
        for piece in pieces(size) {
            client.send(&piece).await;
        }
        client.send(end.as_bytes()).await;
        assert_eq!(client.answers().await, ["T", "D t", "C SELECT 1", "Z I"]);
    }
    weighed.has_not_grown();
    assert_eq!(client.scalar("SELECT 'afterwards'").await, "afterwards");
}

#[tokio::test]
async fn a_parameter_of_64_megabytes() {
    let size = 64 * MEGABYTE;
    let weighed = Weighed::new().await;
    let mut client = weighed.client().await;
    let text = format!("SELECT $1::text = {}", repeated(size));
    for name in ["", "prepared"] {
        client
            .send(&[wire::parse(name, &text), wire::sync()].concat())
            .await;
        assert_eq!(client.answers().await, ["1", "Z I"]);
    }
    // Twice each; the second time by a server that has to be given the statement first.
    let mut other = weighed.client().await;
    for name in ["", "prepared", "prepared"] {
        let head = [
            &[0][..],
            &wire::cstr(name),
            &[0, 0, 0, 1],
            &u32::try_from(size).unwrap().to_be_bytes(),
        ]
        .concat();
        client.send(&wire::head(b'B', head.len() + size + 2)).await;
        client.send(&head).await;
        for piece in pieces(size) {
            client.send(&piece).await;
        }
        client
            .send(&[vec![0, 0], wire::execute(), wire::sync()].concat())
            .await;
        assert_eq!(
            client.answers().await,
            ["2", "D t", "C SELECT 1", "Z I"],
            "{name:?}"
        );
        other.ask("BEGIN").await;
    }
    weighed.has_not_grown();
    assert_eq!(client.scalar("SELECT 'afterwards'").await, "afterwards");
}

#[tokio::test]
async fn errors_and_notices_of_a_megabyte_arrive_whole() {
    let weighed = Weighed::new().await;
    let mut client = weighed.client().await;
    let length = |told: &wire::Fields| told.field('M').len() / MEGABYTE;
    let wrong = format!("SELECT {}::int", repeated(MEGABYTE));
    let told = client.refusal(&wrong).await;
    assert_eq!((told.code(), length(&told)), ("22P02", 1));
    assert_eq!(client.answer().await, "Z I");
    // In a batch, in a transaction, and behind an answer.
    let batch = [
        wire::parse("", &wrong),
        wire::bind("", &[]),
        wire::execute(),
        wire::sync(),
    ]
    .concat();
    client.send(&batch).await;
    let told = client.batch_error().await;
    assert_eq!((told.code(), length(&told)), ("22P02", 1));
    assert_eq!(client.answer().await, "Z I");
    client
        .send(&wire::query(&format!("BEGIN; SELECT 1; {wrong}")))
        .await;
    assert_eq!(client.answer().await, "C BEGIN");
    let told = client.batch_error().await;
    assert_eq!((told.code(), length(&told)), ("22P02", 1));
    assert_eq!(client.answer().await, "Z E");
    assert_eq!(client.ask("ROLLBACK").await, ["C ROLLBACK", "Z I"]);

    let raise = format!("DO $$BEGIN RAISE NOTICE '%', {}; END$$", repeated(MEGABYTE));
    client.send(&wire::query(&raise)).await;
    let (kind, body) = client.read().await.unwrap();
    assert_eq!((kind, length(&wire::Fields::read(&body))), (b'N', 1));
    assert_eq!(client.answers().await, ["C DO", "Z I"]);
    let named = [wire::bind("none", &[]), wire::sync()].concat();
    client.send(&named).await;
    assert_eq!(client.answers().await, ["E ERROR 26000", "Z I"]);
}

#[tokio::test]
async fn a_statement_of_a_megabyte_is_prepared_by_name() {
    let weighed = Weighed::new().await;
    let mut client = weighed.client().await;
    let text = format!("SELECT length('{}')", "x".repeat(MEGABYTE));
    // In pieces that come one after the other, the last one byte by byte.
    let parse = wire::parse("long", &text);
    let (most, rest) = parse.split_at(parse.len() - 20);
    for piece in most.chunks(10_000) {
        client.send(piece).await;
    }
    for byte in rest {
        client.send(&[*byte]).await;
    }
    let execute = [wire::bind("long", &[]), wire::execute(), wire::sync()].concat();
    client.send(&execute).await;
    let length = format!("D {MEGABYTE}");
    assert_eq!(
        client.answers().await,
        ["1", "2", &length, "C SELECT 1", "Z I"]
    );
    // On the other server as well.
    let mut holding = weighed.client().await;
    holding.ask("BEGIN").await;
    client.send(&execute).await;
    assert_eq!(client.answers().await, ["2", &length, "C SELECT 1", "Z I"]);

    // Too long: that is told at once, also while something else runs.
    for before in [Vec::new(), wire::query("SELECT pg_sleep(600)")] {
        let mut client = weighed.client().await;
        let head = wire::head(b'P', 17 * MEGABYTE);
        client
            .send(&[&before[..], &head, b"too_long\0"].concat())
            .await;
        let told = client.error().await;
        assert_eq!(
            (told.code(), told.severity()),
            ("54000", "FATAL"),
            "{told:?}"
        );
        assert_eq!(client.answer().await, "closed");
    }
}
