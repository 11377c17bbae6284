#!/bin/bash
# fetch-jars.sh FOLDER: fetch Delta, Hadoop's S3 client and RAPIDS, and check them against the checksums in etl/spark.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin" # for the hooks of ca-certificates
if [ -s /run/ca.crt ]; then # Java has its own trust store, built from the files in this folder
  csplit -s -z -f /usr/local/share/ca-certificates/build- -b '%03d.crt' /run/ca.crt '/-----BEGIN CERTIFICATE-----/' '{*}'
  update-ca-certificates >/dev/null 2>&1
fi
export MILLRACE_JARS="$1" MILLRACE_HOME=/tmp/home PYTHONPATH=/opt/millrace
mkdir -p "$1"
/opt/venv/bin/python -c '
from etl.spark import gpu, jars
jars.fetched((*jars.DELTA, *jars.S3, *gpu.RAPIDS))'
rm -rf "$1"/.[a-z]*
