#!/bin/sh
killall -9 dropbear
sleep 2
