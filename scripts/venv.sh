#!/usr/bin/env bash
# Build .venv from requirements.txt, every hash checked. uv takes half a minute; pip does the same in a few.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
  echo "Millrace needs Python 3.11, 3.12 or 3.13, and \`$python\` is $("$python" --version 2>&1 || echo missing). Try: make demo PYTHON=python3.12" >&2
  exit 1
fi
echo "Building .venv with $("$python" --version) from requirements.txt ..."
rm -rf .venv
"$python" -m venv .venv
if ! command -v uv >/dev/null; then
  # One process and no pipe: a reader that ends before its writer kills it, and `pipefail` makes that an error.
  awk '/^[^ ]/ {wanted = /^uv==/} wanted' requirements.txt > .venv/uv.txt
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
  PATH="$PWD/.venv/bin:$PATH"
fi
uv pip install --quiet --python .venv/bin/python --compile-bytecode --require-hashes -r requirements.txt
# The checkout's rooms (contracts, features, ...) are importable from any process of this .venv; `millrace` is `python -m dags` of this checkout.
.venv/bin/python - <<'PY'
import pathlib, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "millrace.pth").write_text(str(pathlib.Path.cwd()) + "\n")
PY
install -m 755 scripts/millrace .venv/bin/millrace
echo "Done: $(du -sh .venv | cut -f1) in .venv"
