//! The command `pgweir`: everything is in the library, so that tests, benches and fuzzers can link it.

use std::process::ExitCode;

use clap::Parser as _;
use pgweir::app::command_line;

/// An idle client takes half the memory that it takes with the system's allocator (docs/adr/).
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match command_line::main(command_line::CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        #[expect(clippy::print_stderr, reason = "there may be no log yet")]
        Err(error) => {
            eprintln!("pgweir: {error:#}");
            ExitCode::FAILURE
        }
    }
}
