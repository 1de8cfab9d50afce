#!/bin/bash
echo "$@" "$STAGE" > ~/made
