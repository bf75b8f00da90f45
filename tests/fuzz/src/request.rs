//! Whatever bytes the kernel's device gives: a request, within those bytes, or an error. Alignment does not matter.

#![no_main]

// The modules by themselves: the agent as a whole is a program.
#[allow(dead_code, unreachable_pub)]
#[path = "../../../fs-agent/src/fuse/request.rs"]
mod request;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../fs-agent/src/fuse/wire.rs"]
mod wire;

use libfuzzer_sys::fuzz_target;

use request::{Malformed, Operation, Request};

fn check(bytes: &[u8]) -> String {
    match Request::parse(bytes) {
        Ok(request) => {
            assert!(request.header.len as usize <= bytes.len());
            match request.operation {
                Operation::Write { data, how } => assert_eq!(data.len(), how.size as usize),
                Operation::Lookup { name } => assert!(!name.as_encoded_bytes().contains(&0)),
                Operation::BatchForget(forgets) => assert!(forgets.iter().count() * 16 <= bytes.len()),
                _ => {}
            }
            format!("{request:?}")
        }
        Err(malformed @ Malformed::Short { got, wanted }) => {
            assert!(got == bytes.len() && got < wanted);
            malformed.to_string()
        }
        Err(malformed) => malformed.to_string(),
    }
}

fuzz_target!(|input: &[u8]| {
    let shifted = [&[0], input].concat();
    assert_eq!(check(input), check(&shifted[1..]));
});
