#!/bin/bash
echo "size $SIZE lang $LANG"
