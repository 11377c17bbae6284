#!/bin/sh
# install.sh LOCK: install a hashed lock into /opt/venv, without what no image needs, and compile it.
set -eu
if [ -s /run/ca.crt ]; then export SSL_CERT_FILE=/run/ca.crt; fi
python3 -m venv --without-pip /opt/venv
# --no-deps: the lock is complete, except what requirements/overrides.txt leaves out on purpose.
/opt/uv/bin/uv pip install --quiet --python /opt/venv/bin/python --no-deps --require-hashes -r "$1"
slim.sh /opt/venv/lib/python3*/site-packages
# Hash-based bytecode is the same in each build, and valid whatever the clock says.
# Skip modules that are imported once per training or never: 40 MB.
/opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(databricks|dask|mlflow|botocore/data)/' /opt/venv/lib
rm -f /opt/venv/.lock
