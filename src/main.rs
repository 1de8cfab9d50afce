//! The vmdeck binary: hands the command line to the library and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut io = vmdeck::app::Io { out: &mut out, err: &mut err };
    ExitCode::from(vmdeck::app::main(std::env::args_os().collect(), &mut io))
}
