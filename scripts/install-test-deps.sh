#!/bin/sh
# The tests run on SQLite and on a real PostgreSQL server, once with PgBouncer before it, and on a real Valkey or Redis
# server. This makes sure that their programs are there: quick where they are, an installation where the machine has
# apt, and a clear sentence where neither helps.
set -eu

has_postgres() {
    for directory in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)"; do
        if [ -x "$directory/initdb" ] && [ -x "$directory/postgres" ]; then
            return 0
        fi
    done
    command -v initdb >/dev/null 2>&1 && command -v postgres >/dev/null 2>&1
}

has_pooler() {
    [ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null 2>&1
}

has_valkey() {
    command -v valkey-server >/dev/null 2>&1 || command -v redis-server >/dev/null 2>&1
}

missing() {
    has_postgres || echo postgresql
    has_pooler || echo pgbouncer
    has_valkey || echo valkey-server
}

packages=$(missing)
if [ -z "$packages" ]; then
    exit 0
fi

if command -v apt-get >/dev/null 2>&1; then
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        as_root="sudo -n"
    fi
    echo "installing the servers that the tests run against (once):" $packages
    export DEBIAN_FRONTEND=noninteractive
    if log=$($as_root apt-get update -qq 2>&1); then
        # Debian has Valkey since release 13; the same tests pass on Redis.
        if [ -z "$(apt-cache madison valkey-server 2>/dev/null)" ]; then
            packages=$(echo "$packages" | sed 's/^valkey-server$/redis-server/')
        fi
        log=$($as_root apt-get install -y -qq --no-install-recommends $packages 2>&1) || true
    fi
    if [ -z "$(missing)" ]; then
        exit 0
    fi
    printf '%s\n' "${log:-}" | tail -n 5 >&2
fi

echo "The tests need server programs that could not be installed here:" $(missing) >&2
echo "Install these packages of your system (redis-server will do for valkey-server) and run this again." >&2
exit 1
