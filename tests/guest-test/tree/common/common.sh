#!/bin/bash
# Stands for the framework's own: it ends whoever sources it without being root.
[ "$(whoami)" = root ] && [ "$(id -u)" = 0 ] || { echo "must be run by root"; exit 1; }
test_print_trc() { echo "|$(date +%m%d_%H%M%S).000|TRACE|$*|"; }
die() { echo "|$(date +%m%d_%H%M%S).000|ERROR| $0 - FATAL: $*|" >&2; exit 1; }
