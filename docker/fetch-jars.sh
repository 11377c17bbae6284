#!/bin/bash
# fetch-jars.sh FOLDER: Delta, Hadoop's S3 client and RAPIDS, each checked against its sum in etl/spark.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin" # what the hooks of ca-certificates call
if [ -s /run/ca.crt ]; then # Java trusts a store of its own, made of the files in this folder
  csplit -s -z -f /usr/local/share/ca-certificates/build- -b '%03d.crt' /run/ca.crt '/-----BEGIN CERTIFICATE-----/' '{*}'
  update-ca-certificates >/dev/null 2>&1
fi
export MILLRACE_JARS="$1" MILLRACE_HOME=/tmp/home PYTHONPATH=/opt/millrace
mkdir -p "$1"
/opt/venv/bin/python -c '
from etl.spark import gpu, jars
jars.fetched((*jars.DELTA, *jars.S3, *gpu.RAPIDS))'
rm -rf "$1"/.[a-z]*
