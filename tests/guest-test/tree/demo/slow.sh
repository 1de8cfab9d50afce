#!/bin/sh
sleep 100
