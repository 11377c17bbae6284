#!/bin/bash
# Start PostgreSQL, with the variables of the official image: POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD_FILE, /docker-entrypoint-initdb.d.
# An interrupted first start is repeated. Existing data is used as it is.
set -euo pipefail
user="${POSTGRES_USER:-postgres}" unfinished="$PGDATA/millrace-initializing"
if [ -e "$unfinished" ]; then find "$PGDATA" -mindepth 1 ! -path "$unfinished" -delete; fi
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  [ -s "${POSTGRES_PASSWORD_FILE:-}" ] || { echo "POSTGRES_PASSWORD_FILE must name a file with the password of $user" >&2; exit 1; }
  # initdb needs an empty folder, so it runs next to the marker, and the complete data is moved into place.
  touch "$unfinished"
  initdb --pgdata="$PGDATA/new" --username="$user" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust --auth-host=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 >/dev/null
  echo "host all all all scram-sha-256" >> "$PGDATA/new/pg_hba.conf"
  pg_ctl --pgdata="$PGDATA/new" -s -w -o "-c listen_addresses=''" start
  if [ -n "${POSTGRES_DB:-}" ] && [ "$POSTGRES_DB" != postgres ]; then createdb --username="$user" "$POSTGRES_DB"; fi
  for script in /docker-entrypoint-initdb.d/*; do
    case "$script" in
      *.sh) . "$script" ;;
      *.sql) psql -v ON_ERROR_STOP=1 --username="$user" --dbname="${POSTGRES_DB:-postgres}" --file="$script" ;;
    esac
  done
  pg_ctl --pgdata="$PGDATA/new" -s -w -m fast stop
  mv "$PGDATA"/new/* "$PGDATA"/
  rmdir "$PGDATA/new"
  rm "$unfinished"
fi
exec "$@" -c listen_addresses='*'
