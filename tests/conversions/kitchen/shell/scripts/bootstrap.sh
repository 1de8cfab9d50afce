#!/bin/sh
apt-get update || dnf -y makecache
