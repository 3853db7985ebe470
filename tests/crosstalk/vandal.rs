//! Connections that break the rules: nobody else may notice, and nothing may hang.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use crate::{
    support::dice::Dice,
    wire::{self, Wire},
    world::{World, soon},
};

pub(crate) async fn live(world: Arc<World>, mut dice: Dice, tag: String) {
    match dice.below(8) {
        0..=2 => cancel_nobody(&world, &mut dice, &tag).await,
        3 => soon("a bad start", &tag, bad_start(&world, &mut dice, &tag)).await,
        4 => {
            soon(
                "a half message",
                &tag,
                half_a_message(&world, &mut dice, &tag),
            )
            .await
        }
        5 => soon("an unread answer", &tag, unread(&world, &mut dice, &tag)).await,
        _ => soon("garbage", &tag, garbage(&world, &mut dice, &tag)).await,
    }
}

/// Cancels with keys of sessions that have ended, forged keys, and noise. Whoever is cancelled by it fails its test.
async fn cancel_nobody(world: &World, dice: &mut Dice, tag: &str) {
    for _ in 0..8 {
        world.count("cancel with a key that is nobody's");
        let key = match dice.below(3) {
            0 => dice.bytes(8),
            _ => world
                .stale_key(|bound| dice.below(bound))
                .unwrap_or_else(|| vec![0; 8]),
        };
        soon("a cancel", tag, wire::cancel(world, &key)).await;
    }
}

/// What is no startup message, or not all of one.
async fn bad_start(world: &World, dice: &mut Dice, tag: &str) {
    world.count("bad start");
    let whole = wire::startup(world, tag);
    let length = 1 + dice.below(500);
    let bytes = match dice.below(5) {
        0 => Vec::new(),
        1 => whole[..dice.below(whole.len())].to_vec(),
        2 => [&i32::MAX.to_be_bytes()[..], &dice.bytes(100)].concat(),
        3 => [&8_i32.to_be_bytes()[..], &dice.bytes(4)].concat(),
        _ => dice.bytes(length),
    };
    let mut stream = wire::dial(world).await;
    drop(stream.write_all(&bytes).await);
    if dice.once_in(2) {
        sleep(Duration::from_millis(dice.below(100) as u64)).await;
        return;
    }
    drop(stream.shutdown().await);
    drop(stream.read_to_end(&mut Vec::new()).await);
}

async fn half_a_message(world: &World, dice: &mut Dice, tag: &str) {
    world.count("half a message");
    let mut wire = Wire::connect(world, tag).await;
    if dice.once_in(2) {
        wire.send(&wire::query("BEGIN")).await;
        assert_eq!(
            [wire.answer().await, wire.answer().await],
            ["C BEGIN", "Z T"]
        );
    }
    let whole = [
        wire::query("SELECT 'half'"),
        wire::parse("a", "SELECT 1"),
        wire::sync(),
    ]
    .concat();
    wire.send(&whole[..1 + dice.below(whole.len() - 1)]).await;
    sleep(Duration::from_millis(dice.below(300) as u64)).await;
}

/// Asks for a lot, reads a little, and goes.
async fn unread(world: &World, dice: &mut Dice, tag: &str) {
    world.count("an answer left unread");
    let mut wire = Wire::connect(world, tag).await;
    let sql = "SELECT repeat('unread', 200) FROM generate_series(1, 5000)";
    wire.send(&wire::query(sql).repeat(1 + dice.below(3))).await;
    assert_eq!(wire.answer().await, "T 1");
    for _ in 0..dice.below(2000) {
        assert!(wire.answer().await.starts_with("D unread"));
    }
    world.bury(wire.key.clone());
}

/// After login: what is no message, or a message that is none within.
async fn garbage(world: &World, dice: &mut Dice, tag: &str) {
    world.count("garbage");
    let mut wire = Wire::connect(world, tag).await;
    let bytes = match dice.below(7) {
        0 => b"Q\0\0\0\x02".to_vec(),          // Shorter than its own length.
        1 => b"Q\xff\xff\xff\xffx".to_vec(),   // Negative.
        2 => b"P\x7f\xff\xff\xffabc".to_vec(), // Two gigabytes are announced.
        3 => b"j\0\0\0\x08abcd".to_vec(),      // No such message.
        4 => b"B\0\0\0\x07\0\0\0".to_vec(),    // Bind that ends early.
        5 => b"Q\0\0\0\x0cSELECT 1Q\0\0\0\x0cSELECT 2\0".to_vec(), // Unterminated: the next is no part of it.
        _ => wire::startup(world, tag),                            // A second one.
    };
    wire.send(&bytes).await;
    let heard = wire.hang_up().await;
    assert!(
        !heard.iter().any(|answer| answer.starts_with("D ")),
        "{} was answered with rows: {heard:?}",
        bytes.escape_ascii()
    );
}
