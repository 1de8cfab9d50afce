//! The bytes of a journal.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmdeck_core::fuzz::journal(data));
