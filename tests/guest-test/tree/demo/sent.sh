#!/bin/sh
cat hello/deep/file; ls -l hello/run.sh | cut -c1-10
