//! Every case of `e2e/differential/cases`, on Envoy and on Meshwork. Names of cases, or parts of them, may be given.

use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::differential::main()
}
