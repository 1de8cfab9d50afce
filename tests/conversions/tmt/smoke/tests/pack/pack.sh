#!/bin/sh
parcel pack "$@" . > /tmp/out.pc
