#!/bin/sh
echo "WARNING: CPU: 0 PID: 93 at drivers/tr/tr.c:22 tr_init+0x56/0x1000 [tr]" > /dev/kmsg
sleep 1
