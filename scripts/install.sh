# Sourced by the ensure-*.sh scripts: installs Debian packages, or says what is missing.

# install_packages WHAT PACKAGE...: WHAT is the word for people on other systems.
install_packages() {
    what=$1
    shift
    if ! command -v apt-get >/dev/null; then
        echo "$what is missing: please install it (on Debian: apt-get install $*)" >&2
        return 1
    fi
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "$what is missing, and there is no sudo: as root, apt-get install $*" >&2
            return 1
        }
        as_root=sudo
    fi
    echo "installing $*" >&2
    # The package lists of a fresh machine may be empty or old.
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        {
            $as_root apt-get update -qq &&
                $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >/dev/null
        }
}
