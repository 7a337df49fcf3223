//! whystall: says why a Linux host stalled.

fn main() -> std::process::ExitCode {
    whystall::commands::main()
}
