//! The archive in which a guest sends its artifacts.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmdeck_core::fuzz::archive(data));
