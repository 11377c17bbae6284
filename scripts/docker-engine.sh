#!/usr/bin/env bash
# The Docker Engine that `make images` and `make compose` use: the machine's own, or, as root on Debian, one that this script starts for this checkout.
#
#   docker-engine.sh up      provide an engine and the base image; 3 and one line if there is no engine and none can be started
#   docker-engine.sh env     print variables for a shell to evaluate: DOCKER, COMPOSE, DOCKER_HOST
#   docker-engine.sh check   0 if `up` could succeed, else 3 and one line that says what is missing
#   docker-engine.sh down    stop the engine that this script started; its images and volumes stay
#   docker-engine.sh clean   the same, and delete its images and volumes
set -euo pipefail
caller=$PWD
absolute() { case "$1" in /*) printf %s "$1" ;; *) printf %s "$caller/$1" ;; esac; }
cd "$(dirname "$0")/.."

home=$(absolute "${MILLRACE_HOME:-$PWD/.millrace}")
state=$(absolute "${MILLRACE_DOCKER_HOME:-$home/docker}")
# A socket's path must be short, and a checkout's may be long.
run="/run/millrace-docker-$(printf %s "$state" | sha256sum | cut -c1-12)"
base="${MILLRACE_BASE_IMAGE:-debian:bookworm-slim}"

say() { echo "$*" >&2; }
missing() { say "No Docker Engine: $*"; exit 3; }

# A client that can build: with buildx, or an old one that builds without it.
client() {
  local path version
  for path in $(type -ap docker | awk '!seen[$0]++'); do
    version=$("$path" --version 2>/dev/null | sed -n 's/^Docker version \([0-9]*\).*/\1/p')
    if [ -n "$version" ] && { [ "$version" -lt 23 ] || "$path" buildx version >/dev/null 2>&1; }; then
      echo "$path"
      return
    fi
  done
  return 1
}

composer() {
  if [ -n "${1:-}" ] && "$1" compose version >/dev/null 2>&1; then
    echo "$1 compose"
  elif docker-compose version --short 2>/dev/null | grep -qE '^v?(1\.(29|[3-9][0-9])|[2-9])'; then
    command -v docker-compose
  else
    return 1
  fi
}

# The machine's own engine, as this user's environment names it.
machine_answers() { local docker; docker=$(client) && timeout 10 "$docker" info >/dev/null 2>&1; }
ours_answers() { local docker; docker=$(client) && [ -S "$run/sock" ] && DOCKER_HOST="unix://$run/sock" timeout 10 "$docker" info >/dev/null 2>&1; }
startable() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ "$(uname -s)" = Linux ]; }

why_not() {
  if [ "$(uname -s)" != Linux ]; then
    echo "install Docker Desktop and start it"
  elif ! command -v apt-get >/dev/null; then
    echo "install Docker (docs.docker.com/engine/install) and start it"
  else
    echo "install Docker and let this user reach it, or run as root: on Debian, root gets one started by scripts/docker-engine.sh"
  fi
}

has() { local name; for name in "$@"; do command -v "$name" >/dev/null || return 1; done; }

# install PACKAGE...: removes no package (such as Docker's own in favor of Debian's), and starts no service.
install() {
  local name policy=/usr/sbin/policy-rc.d wanted=()
  for name in "$@"; do
    if apt-cache show "$name" >/dev/null 2>&1; then
      wanted+=("$name")
    elif [[ $name != docker-cli && $name != docker-buildx ]]; then # which are in docker.io before Debian 13
      return 1
    fi
  done
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "${wanted[@]}" >/dev/null
}
install_missing() {
  say "Installing $* ..."
  install "$@" 2>/dev/null || { apt-get update -qq && install "$@"; } || missing "apt-get could not install $*"
}
install_engine() {
  if has dockerd iptables ip && client >/dev/null && composer "$(client)" >/dev/null; then return; fi
  install_missing docker.io docker-cli docker-buildx docker-compose iptables iproute2 ca-certificates
}

# Engines share docker0 and the network rules, so only one can run at a time.
other_engines() { pgrep -x dockerd | grep -vxF "$(cat "$run/pid" 2>/dev/null || echo none)"; }

start() {
  if other_engines >/dev/null; then
    missing "another dockerd runs on this machine, and this user's \`docker info\` does not reach it. Set DOCKER_HOST to it, or end it"
  fi
  mkdir -p "$state" "$run"
  # What `down` restores: the state before this script's first engine, even if that engine was killed.
  [ -s "$run/forward" ] || iptables -S FORWARD 2>/dev/null | sed -n 's/^-P FORWARD //p' >"$run/forward" || true
  [ -s "$run/ip_forward" ] || cat /proc/sys/net/ipv4/ip_forward >"$run/ip_forward"
  # Its own mount namespace: runc mistakes a cgroup v2 mount below a v1 hierarchy for the whole machine's.
  setsid unshare --mount bash -c '
    if [ "$(stat -fc %T /sys/fs/cgroup)" = tmpfs ]; then umount /sys/fs/cgroup/unified 2>/dev/null || true; fi
    exec dockerd --data-root "$1/data" --exec-root "$2/exec" --pidfile "$2/pid" -H "unix://$2/sock" --log-level warn' \
    millrace-dockerd "$state" "$run" >"$run/log" 2>&1 </dev/null &
  local deadline=$((SECONDS + 60))
  until ours_answers; do
    if [ $SECONDS -gt $deadline ] || ! jobs -r | grep -q .; then
      say "$(tail -5 "$run/log")"
      missing "dockerd did not start; its log is above"
    fi
    sleep 0.2
  done
  say "Started a Docker Engine for this checkout (make docker-down ends it)"
}

# Pulled like any other, or built from Debian's packages if no registry is reachable.
have_base() {
  local docker
  docker=$(client)
  if "$docker" image inspect "$base" >/dev/null 2>&1; then
    return
  fi
  if timeout "${MILLRACE_PULL_SECONDS:-120}" "$docker" pull -q "$base" >/dev/null 2>&1; then
    return
  fi
  if ! startable || [ "$base" != debian:bookworm-slim ]; then
    missing "the image $base can be neither pulled nor made here"
  fi
  has mmdebstrap || install_missing mmdebstrap debian-archive-keyring
  say "No registry has $base for us; making it of Debian's packages ..."
  mkdir -p "$state"
  mmdebstrap --quiet --variant=minbase \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/log/*' \
    bookworm "$state/base.tar" http://deb.debian.org/debian || missing "mmdebstrap could not make $base"
  "$docker" import "$state/base.tar" "$base" >/dev/null
  rm -f "$state/base.tar"
}

down() {
  local pid deadline
  pid=$(cat "$run/pid" 2>/dev/null || true)
  if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "--exec-root $run/exec"; then
    export DOCKER_HOST="unix://$run/sock"
    docker_quiet ps -q | xargs -r timeout 60 "$(client)" stop -t 35 >/dev/null || true
    docker_quiet network prune -f >/dev/null || true
    kill "$pid"
    deadline=$((SECONDS + 60))
    while kill -0 "$pid" 2>/dev/null; do
      if [ $SECONDS -gt $deadline ]; then kill -KILL "$pid"; fi
      sleep 0.1
    done
    say "Ended this checkout's Docker Engine"
  fi
  if [ -d "$run" ] && ! other_engines >/dev/null; then remove_rules; fi
  rm -rf "$run"
}

# Remove the bridge, chains and rules that dockerd leaves behind; keep rules of others.
remove_rules() {
  local table chain rule
  has iptables ip || return 0
  ip link delete docker0 2>/dev/null || true
  for table in filter nat; do
    iptables -t $table -S 2>/dev/null | grep -E '^-A (FORWARD|PREROUTING|OUTPUT|POSTROUTING) .*(-j DOCKER|docker0|br-[0-9a-f]{12})' | while read -r rule; do
      # shellcheck disable=SC2086 # a rule is several words
      eval iptables -t $table "-D ${rule#-A }" 2>/dev/null || true
    done
    for chain in $(iptables -t $table -S 2>/dev/null | sed -n 's/^-N \(DOCKER[A-Z0-9-]*\)$/\1/p'); do
      [ "$chain" = DOCKER-USER ] && [ "$(iptables -S DOCKER-USER | grep -c '^-A')" -gt 1 ] && continue # the administrator's
      iptables -t $table -F "$chain" 2>/dev/null || true
    done
    for chain in $(iptables -t $table -S 2>/dev/null | sed -n 's/^-N \(DOCKER[A-Z0-9-]*\)$/\1/p'); do iptables -t $table -X "$chain" 2>/dev/null || true; done
  done
  if [ -s "$run/forward" ]; then iptables -P FORWARD "$(cat "$run/forward")" 2>/dev/null || true; fi
  if [ -s "$run/ip_forward" ]; then cat "$run/ip_forward" >/proc/sys/net/ipv4/ip_forward 2>/dev/null || true; fi
}
docker_quiet() { timeout 30 "$(client)" "$@" 2>/dev/null; }

case "${1:-}" in
  check)
    machine_answers || ours_answers || startable || missing "$(why_not)"
    ;;
  up)
    if ! machine_answers; then
      if ! ours_answers; then
        startable || missing "$(why_not)"
        install_engine
      fi
    fi
    if ! machine_answers; then # the installation may have started one
      ours_answers || start
      export DOCKER_HOST="unix://$run/sock"
    fi
    composer "$(client)" >/dev/null || missing "an engine is there, but neither \`docker compose\` nor docker-compose 1.29 and newer"
    have_base
    ;;
  env)
    docker=$(client) || missing "$(why_not)"
    echo "export DOCKER=$docker DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1"
    echo "export COMPOSE='$(composer "$docker" || true)'"
    if ! machine_answers && ours_answers; then echo "export DOCKER_HOST=unix://$run/sock"; fi
    ;;
  down) down ;;
  clean)
    down
    rm -rf "${state:?}/data" "${state:?}/base.tar"
    ;;
  *)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
