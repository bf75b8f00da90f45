//! Runs a program with a list of the system calls that it may make: `confined FILE PROGRAM [ARGUMENT ...]`. The file has
//! their names, a line each; names of other machines' calls are passed over. To all others the kernel says ENOSYS.
//!
//! For tests of what a systemd unit leaves a service, where there is no systemd.

use std::{env, error::Error, fs, os::unix::process::CommandExt, process::Command};

use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let (Some(list), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("confined FILE PROGRAM [ARGUMENT ...]".into());
    };
    let list = fs::read_to_string(list)?;
    let known: Vec<Value> = list
        .split_whitespace()
        .map(|name| json!({ "syscall": name }))
        .filter(|call| compile(std::slice::from_ref(call)).is_ok())
        .collect();
    apply_filter(&compile(&known)?)?;
    Err(Command::new(program).args(arguments).exec().into())
}

/// The filter that lets `calls` through.
fn compile(calls: &[Value]) -> Result<BpfProgram, Box<dyn Error>> {
    let filter = json!({ "all": {
        "mismatch_action": { "errno": nix::libc::ENOSYS },
        "match_action": "allow",
        "filter": calls,
    }});
    let target = TargetArch::try_from(env::consts::ARCH)?;
    compile_from_json(filter.to_string().as_bytes(), target)?.remove("all").ok_or_else(|| "no filter".into())
}
