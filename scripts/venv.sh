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
# A line every few seconds: on a slow network or a busy machine this takes minutes.
total=$(grep -c '^[A-Za-z0-9].*==' requirements.txt)
while sleep "${MILLRACE_VENV_SECONDS:-10}"; do
  installed=$({ find .venv/lib -maxdepth 3 -name '*.dist-info' 2>/dev/null || true; } | wc -l)
  echo "  $installed of about $total packages installed, $(du -sh .venv 2>/dev/null | cut -f1) on disk, $SECONDS s"
done &
counting=$!
trap 'kill "$counting" 2>/dev/null || true' EXIT
"$python" -m venv .venv
if ! command -v uv >/dev/null; then
  # One process and no pipe: a reader that ends before its writer kills it, and `pipefail` makes that an error.
  awk '/^[^ ]/ {wanted = /^uv==/} wanted' requirements.txt > .venv/uv.txt
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
  PATH="$PWD/.venv/bin:$PATH"
fi
# What uv says of its downloads is shown, the list of what it installed is not.
uv pip install --no-progress --python .venv/bin/python --compile-bytecode --require-hashes -r requirements.txt 2>&1 |
  sed -u -e '/^ *[+~-] /d' -e 's/^ */  /'
kill "$counting"
wait "$counting" 2>/dev/null || true
# The checkout's packages (contracts, features, ...) are importable from any process of this .venv; `millrace` is `python -m millrace` of this checkout.
.venv/bin/python - <<'PY'
import pathlib, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "millrace.pth").write_text(str(pathlib.Path.cwd()) + "\n")
PY
install -m 755 scripts/millrace .venv/bin/millrace
install -m 644 scripts/health.py .venv/bin/millrace-health.py
echo "Done: $(du -sh .venv | cut -f1) in .venv"
