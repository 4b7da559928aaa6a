#!/bin/sh
# What the images start: latentbank, with the page's token read from a file (a Docker secret) where one is named, so
# that neither `docker inspect` nor the process list shows it. The server's key has LATENTBANK_API_KEY_FILE for that.
set -eu
if [ -n "${LATENTBANK_TOKEN_FILE:-}" ]; then
    LATENTBANK_TOKEN=$(cat -- "$LATENTBANK_TOKEN_FILE")
    export LATENTBANK_TOKEN
fi
# In this process's place: signals reach latentbank.
exec latentbank "$@"
