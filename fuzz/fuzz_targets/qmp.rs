//! What QEMU's control socket says.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmdeck_core::fuzz::qmp(data));
