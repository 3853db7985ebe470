//! The words that settings may have, as enums.
//!
//! Knows spellings only; what each word *does* is decided by the layer that reads it. Invariant: the
//! spelling stands here once, for reading, for messages and for `SHOW CONFIG`.

use std::fmt;

use toml::de::DeValue;

use super::value::{Context, Value, Wrong, text};

/// Defines an enum with one spelling per variant.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $( $(#[$doc:meta])+ $variant:ident = $word:literal, )+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $( $(#[$doc])+ $variant, )+ }

        impl $name {
            /// Every spelling, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The spelling of the configuration file.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }

            /// The variant with this spelling.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $( $word => Some(Self::$variant), )+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.as_str())
            }
        }

        impl Value for $name {
            fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
                let wrong = || Wrong::word(value, Self::WORDS);
                if !value.is_str() {
                    return Err(wrong());
                }
                Self::from_word(&text(value, context)?).ok_or_else(wrong)
            }

            fn show(&self) -> String {
                self.as_str().to_owned()
            }
        }
    };
}

words! {
    /// When a server goes back to the pool.
    PoolMode {
        /// When the client disconnects.
        Session = "session",
        /// When the transaction ends.
        Transaction = "transaction",
        /// After each statement; explicit transactions are refused.
        Statement = "statement",
    }
}

words! {
    /// How clients prove who they are.
    AuthType {
        /// Not at all: the name is believed.
        Trust = "trust",
        /// By the password in clear.
        Plain = "plain",
        /// By an MD5 challenge; a stored SCRAM secret is asked for by SCRAM.
        Md5 = "md5",
        /// By SCRAM-SHA-256, with channel binding over TLS (RFC 5802, RFC 7677).
        ScramSha256 = "scram-sha-256",
        /// By a TLS client certificate whose common name is the user.
        Cert = "cert",
        /// As the rules of `auth_hba_file` say.
        Hba = "hba",
    }
}

words! {
    /// How much TLS a connection must have, in libpq's words (manual section 32.19).
    SslMode {
        /// None.
        Disable = "disable",
        /// Only if the other side insists.
        Allow = "allow",
        /// If the other side offers it.
        Prefer = "prefer",
        /// Always, whoever the other side is.
        Require = "require",
        /// Always, with a certificate of a known authority.
        VerifyCa = "verify-ca",
        /// Always, with a certificate of a known authority for this very name.
        VerifyFull = "verify-full",
    }
}

words! {
    /// How TLS begins, in libpq's words (`sslnegotiation`, manual section 32.1).
    SslNegotiation {
        /// With an SSLRequest, which any server understands.
        Postgres = "postgres",
        /// At once: PostgreSQL 17 and newer, and what passes TLS on by its server name.
        Direct = "direct",
    }
}

words! {
    /// What a server of a database is.
    Role {
        /// Takes writes. At most one server of a database may claim it.
        Primary = "primary",
        /// A standby: reads only.
        Replica = "replica",
        /// Whichever it is observed to be.
        Auto = "auto",
    }
}

words! {
    /// What happens when a session asks for something that lives in one server.
    StatefulPolicy {
        /// It keeps its server until that state is gone.
        Pin = "pin",
        /// It gets an error.
        Refuse = "refuse",
    }
}

words! {
    /// How fresh a read must be.
    Consistency {
        /// Any replica within the lag limits.
        Eventual = "eventual",
        /// A session reads its own writes, and time never runs backwards for it.
        Session = "session",
        /// Never older than the moment at which the read was asked.
        Strong = "strong",
        /// From the primary.
        Primary = "primary",
    }
}

words! {
    /// Whose writes a session must see.
    ConsistencyScope {
        /// Its own.
        Session = "session",
        /// Those of every session with the same `pgweir.key`.
        Key = "key",
        /// Those of every session of the same user.
        User = "user",
        /// Those of every session of the same database.
        Database = "database",
    }
}

words! {
    /// What a read does when no replica is fresh enough.
    OnLag {
        /// It goes to the primary.
        Primary = "primary",
        /// It waits up to `lag_wait_timeout`, then goes to the primary.
        Wait = "wait",
    }
}

words! {
    /// How one of several eligible replicas is chosen.
    LoadBalance {
        /// In turn.
        RoundRobin = "round_robin",
        /// By chance.
        Random = "random",
        /// The one with the fewest connections in use.
        LeastConnections = "least_connections",
        /// By chance, in proportion to `weight`.
        Weighted = "weighted",
        /// The same one for the same client address.
        ClientHash = "client_hash",
        /// The faster of two picked by chance.
        Latency = "latency",
    }
}

words! {
    /// Whether the primary serves reads.
    PrimaryReads {
        /// Only those that must see it.
        Never = "never",
        /// When no replica can.
        Fallback = "fallback",
        /// Always: it is one more candidate.
        Always = "always",
    }
}

words! {
    /// Where statements go unless something else says so.
    RouteTo {
        /// Proved reads to replicas, all else to the primary.
        Auto = "auto",
        /// All to the primary.
        Primary = "primary",
        /// All to a replica, which refuses writes.
        Replica = "replica",
    }
}

/// The TLS versions that may be spoken. rustls has none below 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsProtocols {
    /// TLS 1.2.
    pub v1_2: bool,
    /// TLS 1.3.
    pub v1_3: bool,
}

impl Value for TlsProtocols {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        let mut protocols = Self {
            v1_2: false,
            v1_3: false,
        };
        let wrong = || {
            Wrong::new(
                value,
                "\"secure\" (1.2 and 1.3), \"tlsv1.2\" or \"tlsv1.3\"",
            )
        };
        let words = Vec::<String>::read(value, context).map_err(|_| wrong())?;
        for word in &words {
            match word.as_str() {
                "secure" | "default" | "all" => {
                    protocols = Self {
                        v1_2: true,
                        v1_3: true,
                    }
                }
                "tlsv1.2" => protocols.v1_2 = true,
                "tlsv1.3" => protocols.v1_3 = true,
                _ => return Err(wrong()),
            }
        }
        if words.is_empty() {
            Err(wrong())
        } else {
            Ok(protocols)
        }
    }

    fn show(&self) -> String {
        match (self.v1_2, self.v1_3) {
            (true, true) => "secure",
            (true, false) => "tlsv1.2",
            (false, _) => "tlsv1.3",
        }
        .to_owned()
    }
}
