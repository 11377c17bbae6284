#!/usr/bin/env bash
# Build the images: all those of docker/compose.yaml, or the given targets, such as `images.sh features gpu`.
# MILLRACE_TAG (default: latest) and MILLRACE_IMAGE_PREFIX (default: millrace) name them: millrace/pipeline:latest.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(postgres redis s3 engine features pipeline)
sbom="${SBOM:-${MILLRACE_HOME:-$PWD/.millrace}/sbom}"
prefix="${MILLRACE_IMAGE_PREFIX:-millrace}" tag="${MILLRACE_TAG:-latest}"

scripts/docker-engine.sh up
environment=$(scripts/docker-engine.sh env)
eval "$environment"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
options=(--build-arg "BASE=${MILLRACE_BASE_IMAGE:-debian:bookworm-slim}"
  --label "org.opencontainers.image.version=$version"
  --label "org.opencontainers.image.revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
  --label "org.opencontainers.image.licenses=Apache-2.0")
# For a network with its own certificate authority: builds trust the authorities of this machine. No layer keeps them.
for file in "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}" /etc/ssl/certs/ca-certificates.crt; do
  if [ -s "$file" ]; then
    options+=(--secret "id=ca,src=$file")
    break
  fi
done
for target in "${targets[@]}"; do
  echo "Building $prefix/$target:$tag ..."
  started=$SECONDS
  log=$(mktemp)
  if ! "$DOCKER" build "${options[@]}" --progress plain --label "org.opencontainers.image.title=millrace-$target" \
    --target "$target" -t "$prefix/$target:$tag" -f docker/Dockerfile . >"$log" 2>&1; then
    tail -40 "$log" >&2
    rm -f "$log"
    exit 1
  fi
  rm -f "$log"
  # For `make sbom`: the image's Debian packages.
  mkdir -p "$sbom"
  "$DOCKER" run --rm --entrypoint dpkg-query "$prefix/$target:$tag" -W -f='${Package}\t${Version}\t${Architecture}\n' >"$sbom/$target.dpkg"
  size=$("$DOCKER" image inspect --format '{{.Size}}' "$prefix/$target:$tag")
  echo "  $((size / 1000000)) MB, $((SECONDS - started)) s"
done
