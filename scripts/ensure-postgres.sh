#!/bin/sh
# Installs PostgreSQL's server binaries where they are missing.
set -eu
. "$(dirname "$0")/install.sh"

[ -z "${PGWEIR_TEST_PGBIN:-}" ] || exit 0
! command -v initdb >/dev/null || exit 0
for initdb in /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb \
    /opt/homebrew/opt/postgresql*/bin/initdb /usr/local/opt/postgresql*/bin/initdb; do
    [ ! -x "$initdb" ] || exit 0
done

# Debian starts a server on installation; we only want the programs.
if command -v apt-get >/dev/null && [ ! -e /etc/postgresql-common/createcluster.conf ] && [ "$(id -u)" = 0 ]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi
install_packages "PostgreSQL (initdb, postgres, psql, pgbench)" postgresql
