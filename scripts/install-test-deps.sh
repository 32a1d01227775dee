#!/bin/sh
# The tests run on SQLite and on a real PostgreSQL server, once with PgBouncer before it. This makes sure that their
# programs are there: quick where they are, an installation where the machine has apt, and a clear sentence where
# neither helps.
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

if has_postgres && has_pooler; then
    exit 0
fi

if command -v apt-get >/dev/null 2>&1; then
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        as_root="sudo -n"
    fi
    echo "installing the PostgreSQL server and the PgBouncer that the tests run against (once)"
    export DEBIAN_FRONTEND=noninteractive
    if log=$($as_root apt-get update -qq 2>&1 &&
        $as_root apt-get install -y -qq --no-install-recommends postgresql pgbouncer 2>&1) && has_postgres && has_pooler; then
        exit 0
    fi
    printf '%s\n' "${log:-}" | tail -n 5 >&2
fi

echo "The tests need PostgreSQL's server programs (initdb, postgres) and pgbouncer, and they could not be installed here." >&2
echo "Install the packages 'postgresql' and 'pgbouncer' of your system and run this again." >&2
exit 1
