//! The marks around a command's output.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmdeck_core::fuzz::marks(data));
