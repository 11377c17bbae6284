#!/usr/bin/env bash
# Millrace in containers. Creates the secrets on first use, finds or starts a Docker Engine, and calls Compose with docker/compose.yaml.
#
#   compose.sh up            start everything and wait until it is healthy
#   compose.sh demo          the same, then the main job over REST and features over HTTP (`make compose`)
#   compose.sh down          stop and remove the containers; state stays in volumes
#   compose.sh purge         the same, and delete the volumes
#   compose.sh millrace ...  the command line, in a one-off container: `compose.sh millrace tables`
#   compose.sh data-docs DIR copy the Data Docs out of their volume
#   compose.sh password      the administrator's password
#   compose.sh secrets       only create the secrets, in MILLRACE_SECRETS (.millrace/compose/secrets)
#   compose.sh ...           anything else is passed to Compose: ps, logs, exec, up --scale scheduler=2
#
# MILLRACE_PROJECT=DIR runs your project (a folder with millrace.toml) instead of the grocery; MILLRACE_CODE=DIR runs the code of your checkout
# instead of the image's; MILLRACE_FILES=DIR takes landed files from DIR/<table>/<YYYY-MM-DD>/ instead of the bucket; MILLRACE_CA=FILE adds authorities; MILLRACE_COMPOSE_FILES adds your own Compose files.
set -euo pipefail
caller=$PWD
# A path relative to the caller's folder; Compose would resolve it relative to its own file.
absolute() { case "$1" in "" | /*) printf %s "$1" ;; *) printf %s "$caller/$1" ;; esac; }
cd "$(dirname "$0")/.."
for name in MILLRACE_HOME MILLRACE_SECRETS MILLRACE_PROJECT MILLRACE_CODE MILLRACE_FILES MILLRACE_CA; do
  if [ -n "${!name:-}" ]; then export "$name=$(absolute "${!name}")"; fi
done
# Docker creates a missing folder and mounts it empty.
refuse_missing() {
  echo "$1 is ${!1}, $2" >&2
  exit 1
}
if [ -n "${MILLRACE_CODE:-}" ] && [ ! -f "$MILLRACE_CODE/dags/millrace_dag.py" ]; then refuse_missing MILLRACE_CODE "which is no checkout of Millrace: dags/millrace_dag.py is not there"; fi
if [ -n "${MILLRACE_PROJECT:-}" ] && [ ! -f "$MILLRACE_PROJECT/millrace.toml" ]; then refuse_missing MILLRACE_PROJECT "which is no project: millrace.toml is not there"; fi
if [ -n "${MILLRACE_FILES:-}" ] && [ ! -d "$MILLRACE_FILES" ]; then refuse_missing MILLRACE_FILES "which is no folder"; fi
if [ -n "${MILLRACE_CA:-}" ] && [ ! -f "$MILLRACE_CA" ]; then refuse_missing MILLRACE_CA "which is no file"; fi
export MILLRACE_SECRETS="${MILLRACE_SECRETS:-${MILLRACE_HOME:-$PWD/.millrace}/compose/secrets}"
export MILLRACE_PUBLIC_URL="${MILLRACE_PUBLIC_URL:-http://localhost:${MILLRACE_PORT:-8080}}"
features_port="${MILLRACE_FEATURES_PORT:-6566}"
export MILLRACE_PUBLIC_FEATURES_URL="${MILLRACE_PUBLIC_FEATURES_URL:-http://localhost:${features_port%%-*}}"
project="${MILLRACE_COMPOSE_PROJECT:-millrace}"

# Created once. Only the owner can enter the folder; the files are readable because containers run as other users.
make_secrets() {
  mkdir -p "$MILLRACE_SECRETS"
  chmod 700 "$MILLRACE_SECRETS"
  random() { local text; text=$(head -c 96 /dev/urandom | base64 | tr -dc a-zA-Z0-9); printf %s "${text:0:${1:-32}}"; }
  value() { tr -d '\n' <"$MILLRACE_SECRETS/$1"; }
  keep() { # NAME COMMAND...: store the command's output once, complete or not at all
    local path="$MILLRACE_SECRETS/$1"
    [ -s "$path" ] && return
    "${@:2}" >"$path.$$"
    chmod 444 "$path.$$"
    mv "$path.$$" "$path"
  }
  local name
  for name in postgres_password airflow_password registry_password registry_reader_password redis_password s3_secret_key admin_password \
    jwt_secret api_secret_key features_token; do
    keep $name random
  done
  keep s3_access_key random 20
  fernet() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }
  keep fernet_key fernet
  local postgres="${MILLRACE_POSTGRES:-postgres:5432}"
  keep database_url printf 'postgresql://airflow:%s@%s/airflow' "$(value airflow_password)" "$postgres"
  keep registry_url printf 'postgresql://registry:%s@%s/registry' "$(value registry_password)" "$postgres"
  keep registry_reader_url printf 'postgresql://registry_reader:%s@%s/registry' "$(value registry_reader_password)" "$postgres"
  keep online_url printf 'redis://:%s@%s/0' "$(value redis_password)" "${MILLRACE_REDIS:-redis:6379}"
  keep redis_conf printf 'requirepass %s\nbind 0.0.0.0\ndir /data\nappendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\n' \
    "$(value redis_password)"
}

files=(-f docker/compose.yaml)
for extra in ${MILLRACE_COMPOSE_FILES:-}; do files+=(-f "$extra"); done
if [ -n "${MILLRACE_CODE:-}" ]; then files+=(-f docker/compose.code.yaml); fi
if [ -n "${MILLRACE_PROJECT:-}" ]; then files+=(-f docker/compose.project.yaml); fi
if [ -n "${MILLRACE_CA:-}" ]; then files+=(-f docker/compose.ca.yaml); fi
if [ -n "${MILLRACE_FILES:-}" ]; then
  files+=(-f docker/compose.files.yaml)
  export MILLRACE_LANDING=/landing
fi

compose() { $COMPOSE -p "$project" "${files[@]}" "$@"; }

case "${1:-}" in
  "" | help | --help)
    sed -n '2,17s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac
make_or_refuse() {
  # New secrets do not open existing databases.
  if [ ! -s "$MILLRACE_SECRETS/database_url" ] && "$DOCKER" volume inspect "${project}_postgres" >/dev/null 2>&1; then
    echo "The volume ${project}_postgres is there, but its passwords are not in $MILLRACE_SECRETS. Restore that folder, set MILLRACE_SECRETS to it" \
      "or MILLRACE_COMPOSE_PROJECT to another name, or delete all that the stack \`$project\` holds: scripts/compose.sh purge" >&2
    exit 1
  fi
  make_secrets
}

# A stack of the same name from another checkout has different passwords.
refuse_foreign() {
  local folder
  folder=$("$DOCKER" ps -a --filter "label=com.docker.compose.project=$project" --format '{{.Label "com.docker.compose.project.working_dir"}}' | sort -u | head -1)
  if [ -n "$folder" ] && [ "$folder" != "$PWD/docker" ]; then
    echo "The stack \`$project\` on this engine is that of $folder. Use it from there, or set MILLRACE_COMPOSE_PROJECT to another name" >&2
    exit 1
  fi
}

case "$1" in
  secrets)
    make_secrets
    exit
    ;;
  password)
    if [ ! -s "$MILLRACE_SECRETS/admin_password" ]; then
      echo "There is no password in $MILLRACE_SECRETS. scripts/compose.sh up makes one; with MILLRACE_HOME or MILLRACE_SECRETS set, set it here too" >&2
      exit 1
    fi
    echo "$(cat "$MILLRACE_SECRETS/admin_password")"
    exit
    ;;
  demo)
    if [ -n "${MILLRACE_FILES:-}" ]; then
      echo "demo lands the sample, and MILLRACE_FILES is a folder of your own. Use scripts/compose.sh up, or unset MILLRACE_FILES" >&2
      exit 1
    fi
    ;;
esac
scripts/docker-engine.sh up
environment=$(scripts/docker-engine.sh env)
eval "$environment"
refuse_foreign
case "$1" in
  down | purge) ;; # these need no secrets
  *) make_or_refuse ;;
esac

# A one-off container for a command; with a terminal only if there is one.
run() {
  local terminal=()
  if [ ! -t 0 ] || [ ! -t 1 ]; then terminal=(-T); fi
  compose run --rm "${terminal[@]}" "$@"
}

# If the others were not started, the output of `migrate` has the reason.
start() {
  compose up -d --remove-orphans $(printf '%s\n' "$@" | grep -vx -- -d || true) || {
    compose logs --no-color --tail 5 migrate >&2 || true
    echo "The stack did not start. scripts/compose.sh logs says more" >&2
    exit 1
  }
}

# Wait until every container with a health check is healthy, and print which ones it waits for.
wait_healthy() {
  local deadline=$((SECONDS + ${MILLRACE_START_SECONDS:-600})) said="" waiting
  while :; do
    waiting=$("$DOCKER" ps -a --filter "label=com.docker.compose.project=$project" --format '{{.Names}} {{.Status}}' |
      awk '/health: starting|unhealthy|Restarting|Created/ {printf "%s%s", sep, $1; sep = ", "}')
    [ -n "$waiting" ] || break
    if [ "$waiting" != "$said" ]; then
      echo "Waiting for $waiting"
      said=$waiting
    fi
    if [ $SECONDS -gt $deadline ]; then
      echo "Not healthy after ${MILLRACE_START_SECONDS:-600} s: $waiting. scripts/compose.sh logs says why" >&2
      exit 1
    fi
    sleep 1
  done
}

case "$1" in
  up)
    shift
    start "$@"
    wait_healthy
    echo "Landed files come from ${MILLRACE_FILES:-the bucket}, the project from ${MILLRACE_PROJECT:-the image (the grocery)}, code from ${MILLRACE_CODE:-the image}"
    echo "Airflow is at $MILLRACE_PUBLIC_URL (user admin; \`scripts/compose.sh password\` prints the password), features at $MILLRACE_PUBLIC_FEATURES_URL"
    ;;
  demo)
    start
    run demo
    ;;
  millrace)
    shift
    run --no-deps --entrypoint millrace demo "$@"
    ;;
  data-docs)
    folder=$(absolute "${2:?data-docs needs a folder to copy to}")
    mkdir -p "$folder"
    run --no-deps --entrypoint tar demo -C /var/lib/millrace -cf - data_docs | tar -xf - --no-same-owner -C "$folder"
    echo "$folder/data_docs/site/index.html"
    ;;
  down) compose --profile demo --profile streams down --remove-orphans ;;
  purge) compose --profile demo --profile streams down --remove-orphans --volumes ;;
  *) compose "$@" ;;
esac
