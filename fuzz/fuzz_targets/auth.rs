//! Any answers in either authentication exchange: nothing panics, nobody is let in who has proved
//! nothing, and no password goes out in clear where it must not.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pgweir::auth::{
    Channel, ClientExchange, ClientExchangeSetup, Credentials, Entropy, KdfRequest, Md5Hash,
    MockSecret, Password, PasswordMethod, Secret, ServerExchange, ServerExchangeSetup, ServerStep,
    Step,
};

/// Few, so that a run is short; a server that asks for more is refused.
const ITERATIONS: u32 = 16;
const PASSWORD: &[u8] = b"correct horse battery staple";

#[derive(Arbitrary, Debug)]
struct Conversation {
    side: Side,
    messages: Vec<Vec<u8>>,
}

#[derive(Arbitrary, Debug)]
enum Side {
    /// A client that does not know the password.
    Client {
        method: u8,
        secrets: Vec<u8>,
        tls: bool,
    },
    /// A server that may be anybody.
    Server { credentials: u8, channel: u8 },
}

fn secret(kind: u8) -> Secret {
    match kind % 3 {
        0 => Secret::Plain(Password::new(PASSWORD)),
        1 => Secret::Md5(Md5Hash::of("alice", PASSWORD)),
        _ => {
            let salt = b"salt";
            let request = KdfRequest::new(
                "alice",
                Password::new(PASSWORD),
                salt,
                ITERATIONS,
                ITERATIONS,
            );
            let keys = request.expect("below the limit").run();
            Secret::Scram(keys.verifier(salt, ITERATIONS))
        }
    }
}

fn client(method: u8, secrets: &[u8], tls: bool, messages: &[Vec<u8>]) {
    let mut exchange = ClientExchange::new(ClientExchangeSetup {
        method: [
            PasswordMethod::Plain,
            PasswordMethod::Md5,
            PasswordMethod::ScramSha256,
        ][usize::from(method) % 3],
        user: "alice".to_owned(),
        secrets: secrets.iter().take(3).map(|kind| secret(*kind)).collect(),
        mock: MockSecret::new([3; 32], ITERATIONS),
        tls_end_point: tls.then(|| vec![7; 32]),
        entropy: Entropy([9; 32]),
        max_iterations: ITERATIONS,
    });
    let mut step = exchange.start();
    let mut messages = messages.iter();
    loop {
        step = match step {
            Step::Send(_) => match messages.next() {
                Some(message) => exchange.on_message(message),
                None => return,
            },
            Step::NeedKdf(request) => exchange.on_keys(&request.run()),
            Step::Done { .. } => panic!("let in without the password"),
            Step::Denied(_) => return,
        };
    }
}

fn server(credentials: u8, channel: u8, messages: &[Vec<u8>]) {
    let channel = match channel % 3 {
        0 => Channel::Tls {
            end_point: Some(vec![7; 32]),
        },
        1 => Channel::Open,
        _ => Channel::Downgraded,
    };
    let may_be_clear = !matches!(channel, Channel::Downgraded);
    let mut exchange = ServerExchange::new(ServerExchangeSetup {
        user: "alice".to_owned(),
        credentials: match credentials % 3 {
            0 => Credentials::None,
            1 => Credentials::Password(Password::new(PASSWORD)),
            _ => Credentials::Md5(Md5Hash::of("alice", PASSWORD)),
        },
        channel,
        entropy: Entropy([5; 32]),
        max_iterations: ITERATIONS,
    });
    for message in messages {
        let mut step = exchange.on_authentication(message);
        while let Ok(ServerStep::NeedKdf(request)) = step {
            step = exchange.on_keys(&request.run());
        }
        match step {
            Ok(ServerStep::Send(body)) => {
                let is_clear = body.windows(PASSWORD.len()).any(|part| part == PASSWORD);
                assert!(may_be_clear || !is_clear, "the password went out in clear");
            }
            Ok(ServerStep::Wait | ServerStep::NeedKdf(_)) => {}
            Ok(ServerStep::Authenticated) | Err(_) => return,
        }
    }
}

fuzz_target!(|conversation: Conversation| {
    let Conversation { side, messages } = conversation;
    match side {
        Side::Client {
            method,
            secrets,
            tls,
        } => client(method, &secrets, tls, &messages),
        Side::Server {
            credentials,
            channel,
        } => server(credentials, channel, &messages),
    }
});
