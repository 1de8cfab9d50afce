#!/bin/sh
echo "unchecked MSR access error: RDMSR from 0xdead at rIP: 0xffffffff8107a2f4 (native_read_msr+0x4/0x40)" > /dev/kmsg
sleep 1
