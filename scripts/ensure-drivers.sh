#!/bin/sh
# Installs what the driver tests need: psycopg 3 and asyncpg into target/drivers-venv,
# node-postgres into target/drivers-node, JDBC and Java from Debian.
set -eu
. "$(dirname "$0")/install.sh"
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=target/drivers-venv
if ! "$venv/bin/python" -c 'import psycopg, asyncpg' 2>/dev/null; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        install_packages "Python's venv" python3 python3-venv
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'psycopg[binary]' asyncpg
fi

if [ ! -d target/drivers-node/node_modules/pg ]; then
    command -v npm >/dev/null || install_packages npm nodejs npm
    mkdir -p target/drivers-node
    npm install --silent --no-audit --no-fund --prefix target/drivers-node pg >/dev/null
fi

[ -e /usr/share/java/postgresql.jar ] ||
    install_packages "PostgreSQL's JDBC driver" libpostgresql-jdbc-java
command -v java >/dev/null || install_packages Java default-jre-headless
command -v javac >/dev/null || install_packages "Java's compiler" default-jdk-headless
