#!/bin/sh
# a reboot in a script that is sent is no wish of the executor
reboot -f
sleep 20
