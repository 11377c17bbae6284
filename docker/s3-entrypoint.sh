#!/bin/bash
# Serve /data as S3 on port 7070. Keys come from files; missing buckets of S3_BUCKETS are created.
set -euo pipefail
read_secret() { [ -s "$2" ] || { echo "$1 must name a file that holds the key; there is none at $2" >&2; exit 1; }; tr -d '\r\n' <"$2"; }
ROOT_ACCESS_KEY=$(read_secret S3_ACCESS_KEY_FILE "${S3_ACCESS_KEY_FILE:-/run/secrets/s3_access_key}")
ROOT_SECRET_KEY=$(read_secret S3_SECRET_KEY_FILE "${S3_SECRET_KEY_FILE:-/run/secrets/s3_secret_key}")
export ROOT_ACCESS_KEY ROOT_SECRET_KEY
for bucket in ${S3_BUCKETS:-}; do mkdir -p "/data/$bucket"; done
exec versitygw --port :7070 --health /health --quiet posix /data
