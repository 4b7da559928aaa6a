#!/bin/sh
# The entry point of the images: starts latentbank. If LATENTBANK_TOKEN_FILE is set, it reads the page's token from that
# file (a Docker secret), so that neither `docker inspect` nor the process list shows it. For the server's key there is
# LATENTBANK_API_KEY_FILE.
set -eu
if [ -n "${LATENTBANK_TOKEN_FILE:-}" ]; then
    LATENTBANK_TOKEN=$(cat -- "$LATENTBANK_TOKEN_FILE")
    export LATENTBANK_TOKEN
fi
# exec replaces the shell, so that signals reach latentbank.
exec latentbank "$@"
