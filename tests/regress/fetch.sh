#!/bin/sh
# Fetches PostgreSQL's regression SQL (from the source package of the installed distribution) and libpg_query's Python
# binding, and prepares from them what tests/regress.rs reads. Nothing of it is ever committed.
#
# usage: fetch.sh DIRECTORY
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

if [ ! -d regress ]; then
    # A list of source packages of our own, so that the system's lists stay as they are.
    mkdir -p lists/partial
    : > deb-src.sources
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        sed 's/^Types:.*/Types: deb-src/' "$file" >> deb-src.sources
        echo >> deb-src.sources
    done
    if [ -s deb-src.sources ]; then
        list=$PWD/deb-src.sources
    else
        sed -n 's/^deb /deb-src /p' /etc/apt/sources.list > deb-src.list
        list=$PWD/deb-src.list
    fi
    apt="-o Dir::Etc::sourcelist=$list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$PWD/lists"
    apt-get $apt -qq update
    package=$(apt-cache $apt showsrc postgresql-15 postgresql-16 postgresql-17 2>/dev/null |
        sed -n 's/^Package: //p' | head -n 1)
    # The newest version that the mirror really has.
    for version in $(apt-cache $apt showsrc "$package" | sed -n 's/^Version: //p' | sort -rV); do
        apt-get $apt -qq source --download-only "$package=$version" && break
    done
    tar -xjf "$package"_*.orig.tar.bz2 --wildcards '*/src/test/regress'
    mv "$package"*/src/test/regress regress
fi

[ -d python ] || python3 -m venv python
python/bin/python -c 'import pglast' 2>/dev/null || python/bin/pip install --quiet 'pglast>=7'
python/bin/python "$here/extract.py" regress/sql > statements.part
mv statements.part statements.jsonl
chmod -R a+rX .
wc -l statements.jsonl
