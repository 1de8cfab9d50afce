//! The file of DHCP leases.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmdeck_core::fuzz::leases(data));
