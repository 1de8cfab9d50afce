//! What `multipass` answers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmdeck_core::fuzz::multipass(data));
