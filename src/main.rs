//! The binary: parse, run, say how it went.

use std::process::ExitCode;

fn main() -> ExitCode {
    posthaste::cli::run(std::env::args_os())
}
