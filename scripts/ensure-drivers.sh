#!/bin/sh
# Set up the client drivers that tests/drivers.rs runs: psycopg and asyncpg in a virtual environment,
# node-postgres in its own node_modules, Java with PostgreSQL's JDBC driver. Everything that is not a Debian
# package lands under target/drivers. Idempotent: what is there in the wanted version is left alone, so a
# second run needs no network.
#
# Usage: scripts/ensure-drivers.sh        (Debian or Ubuntu, as root or with sudo)
set -eu

PSYCOPG=3.3.9
ASYNCPG=0.31.0
PG=8.23.1
PG_COPY_STREAMS=7.0.0
PG_CURSOR=2.22.0
JDBC_JAR=/usr/share/java/postgresql.jar

root=$(cd "$(dirname "$0")/.." && pwd)
drivers="${CARGO_TARGET_DIR:-$root/target}/drivers"
venv="$drivers/venv"
node="$drivers/node"
mkdir -p "$drivers"

say() { echo "ensure-drivers: $*"; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        say "need root or sudo to run: $*" >&2
        exit 1
    fi
}

# Debian packages that are missing; collected first, so that apt runs once.
packages=""
want() { packages="$packages $1"; }

python_works() { have python3 && python3 -c 'import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
python_works || { want python3; want python3-venv; }
have node || want nodejs
have npm || want npm
# A headless JDK: the test is one source file, which only a JDK (not a JRE) launches.
have javac || want default-jdk-headless
[ -e "$JDBC_JAR" ] || want libpostgresql-jdbc-java

if [ -n "$packages" ]; then
    if ! have apt-get; then
        say "no apt-get here; install the equivalents of:$packages" >&2
        exit 1
    fi
    say "installing$packages"
    as_root apt-get update -q >/dev/null
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $packages >/dev/null
fi

python_is_ready() {
    "$venv/bin/python" - "$PSYCOPG" "$ASYNCPG" 2>/dev/null <<'PY'
import sys
from importlib.metadata import version
import asyncpg, psycopg
wanted = dict(zip(("psycopg", "asyncpg"), sys.argv[1:]), **{"psycopg-binary": sys.argv[1]})
sys.exit(any(version(name) != number for name, number in wanted.items()))
PY
}
if ! python_is_ready; then
    say "installing psycopg $PSYCOPG and asyncpg $ASYNCPG"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check \
        "psycopg[binary]==$PSYCOPG" "asyncpg==$ASYNCPG"
    python_is_ready || { say "psycopg and asyncpg were installed but cannot be imported" >&2; exit 1; }
fi

node_is_ready() {
    node -e '
        const [home, ...wanted] = process.argv.slice(1);
        for (const each of wanted) {
            const [name, version] = each.split("=");
            if (require(`${home}/node_modules/${name}/package.json`).version !== version) process.exit(1);
        }' "$node" "pg=$PG" "pg-copy-streams=$PG_COPY_STREAMS" "pg-cursor=$PG_CURSOR" 2>/dev/null
}
if ! node_is_ready; then
    say "installing node-postgres $PG"
    rm -rf "$node"
    mkdir -p "$node"
    npm install --prefix "$node" --loglevel=error --no-audit --no-fund --no-save \
        "pg@$PG" "pg-copy-streams@$PG_COPY_STREAMS" "pg-cursor@$PG_CURSOR"
    node_is_ready || { say "node-postgres was installed but cannot be loaded" >&2; exit 1; }
fi

[ -e "$JDBC_JAR" ] || { say "$JDBC_JAR is missing" >&2; exit 1; }
say "ready: psycopg $PSYCOPG, asyncpg $ASYNCPG, node-postgres $PG, JDBC"
