#!/usr/bin/env bash
# slim.sh SITE_PACKAGES: delete what no image uses from installed packages. Run it before bytecode is compiled, in the layer that installs.
# This list has every file of the locks that images leave out. A line that matches nothing in an installed package is an error: the list is out of date. One that begins with ? may match nothing.
set -euo pipefail
shopt -s extglob globstar nullglob
site=${1:?Usage: slim.sh SITE_PACKAGES}
cd "$site"
unused=(
  # tests and their data; those of numpy/_core stay, because numpy.testing imports from them
  'numpy/!(_core)/tests'
  'pandas/tests'
  'scipy/**/tests'
  'sklearn/**/tests'
  'pyarrow/tests'
  'pysail/tests'
  # to compile and link against Arrow
  'pyarrow/include'
  'pyarrow/libarrow_python*.so'
  'pyarrow/libarrow_python*.so.*.*.*'
  # Arrow Flight, an RPC protocol that nothing here speaks
  'pyarrow/libarrow_flight.so*'
  'pyarrow/libarrow_python_flight.so*'
  'pyarrow/_flight.*'
  # the page of `feast ui`, which runs from a checkout, and lock files for Feast's developers
  'feast/ui'
  'requirements/py3.*-requirements.txt'
  # translations of Airflow's login pages; English is configured
  'babel/locale-data/!(en*|root).dat'
  # zstandard for PyPy
  'zstandard/_cffi.*'
  # needs CUDA; there is none for ARM
  '?implicit/gpu/_cuda.*'
)
for pattern in "${unused[@]}"; do
  optional=""
  if [[ $pattern == \?* ]]; then optional=yes pattern=${pattern#\?}; fi
  package=${pattern%%/*}
  [ -e "$package" ] || continue
  if [ -L "$package" ]; then
    echo "slim.sh: $site/$package is a link, and what it points to is not this image's. Give a folder of installed packages" >&2
    exit 1
  fi
  # shellcheck disable=SC2206 # the pattern must be expanded
  matches=($pattern)
  if [ ${#matches[@]} -eq 0 ]; then
    [ -z "$optional" ] || continue
    echo "slim.sh: nothing in $site matches $pattern. Correct the list in docker/slim.sh: $package has changed" >&2
    exit 1
  fi
  rm -rf -- "${matches[@]}"
done
