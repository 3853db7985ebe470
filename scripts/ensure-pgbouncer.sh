#!/bin/sh
# Installs PgBouncer, to compare with, unless PGBOUNCER names one.
set -eu
. "$(dirname "$0")/install.sh"

[ -z "${PGBOUNCER:-}" ] || exit 0
! command -v pgbouncer >/dev/null || exit 0
[ ! -x /usr/sbin/pgbouncer ] || exit 0
install_packages PgBouncer pgbouncer
