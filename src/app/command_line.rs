//! The command `pgweir`: what was asked for, and exit status 1 with one clear sentence if it cannot be.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use super::{Pooler, demo, descriptors, explain, run, security::Security};
use crate::config::{Config, describe, import_pgbouncer};

/// A PostgreSQL connection pooler and read/write router.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

/// How to serve: with a file, or with servers given on the command line.
#[derive(Debug, Args)]
struct Serve {
    /// Configuration file (see pooler.toml.example).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["primary", "replica", "listen"])]
    config: Option<PathBuf>,
    /// Primary server, without any file: postgres://user:password@host:port/database.
    #[arg(long, value_name = "URL")]
    primary: Option<String>,
    /// Replica of that primary; may be repeated.
    #[arg(long, value_name = "URL", requires = "primary")]
    replica: Vec<String>,
    /// Where to listen, if not on 127.0.0.1:6432.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "primary")]
    listen: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file: exit status 1, and where it is wrong, if it is.
    Check {
        /// The file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Start a throw-away PostgreSQL cluster and the pooler before it, and show clients at work.
    Demo(demo::Options),
    /// Say where a statement would go, and why, without running it.
    Explain(explain::Options),
    /// Write the equivalent of a PgBouncer configuration to standard output.
    ImportPgbouncer {
        /// pgbouncer.ini; the files that it names are read as well.
        #[arg(value_name = "PGBOUNCER.INI")]
        file: PathBuf,
    },
}

/// Does what the command line says.
pub fn main(arguments: CommandLine) -> anyhow::Result<()> {
    match arguments.command {
        None => serve(&arguments.serve),
        Some(Command::Check { config }) => check(&config),
        Some(Command::Demo(options)) => demo::demo(&options),
        Some(Command::Explain(options)) => explain::explain(&options),
        Some(Command::ImportPgbouncer { file }) => import(&file),
    }
}

fn serve(arguments: &Serve) -> anyhow::Result<()> {
    let config = match (&arguments.config, &arguments.primary) {
        (Some(path), _) => Config::load(path)?,
        (None, Some(primary)) => {
            Config::from_urls(primary, &arguments.replica, arguments.listen.as_deref())?
        }
        (None, None) => anyhow::bail!(
            "say what to serve: --config FILE, or --primary postgres://user:password@host/database"
        ),
    };
    start_logging(&config.process.log_level)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    descriptors::allow(&config);
    let pooler = Pooler::new(Arc::new(config)).map_err(|error| sentence(&error))?;
    run(&pooler, |_| {}).map_err(|error| sentence(&error))
}

/// Logs to standard error from now on.
pub fn start_logging(level: &str) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(log_filter(level)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(())
}

fn log_filter(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(level).with_context(|| format!("log_level \"{level}\""))
}

#[expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "this is what the command is for"
)]
fn check(path: &std::path::Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    log_filter(&config.process.log_level)?;
    Security::load(&config).map_err(|error| sentence(&error))?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    println!("{}: ok", path.display());
    Ok(())
}

#[expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "this is what the command is for"
)]
fn import(path: &std::path::Path) -> anyhow::Result<()> {
    let imported = import_pgbouncer(path).map_err(|error| sentence(&error))?;
    for warning in &imported.warnings {
        eprintln!("warning: {warning}");
    }
    print!("{}", imported.toml);
    Ok(())
}

/// An error and its causes as one sentence.
pub(super) fn sentence(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    anyhow::Error::msg(describe(error))
}
