#!/bin/sh
mkdir -p out/deep && echo one > out/a.log && echo two > 'out/b c.log' && echo three > out/deep/d && ln -s /etc/passwd out/link
