#![no_main]

#[path = "../budget.rs"]
mod budget;

libfuzzer_sys::fuzz_target!(|data: &[u8]| budget::hold(data, |data| posthaste::fuzzing::batch(data)));
