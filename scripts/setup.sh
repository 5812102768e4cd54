#!/usr/bin/env bash
# Makes everything that `make` needs from nothing: system packages, the virtual environment, this package with its
# messages. usage: scripts/setup.sh [ENVIRONMENT]   (default .venv; PYTHON names the interpreter to start from)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}

say() { printf '\n== %s\n' "$*"; }
complain() { printf '%s\n' "$@" >&2; }

# --- the interpreter: 3.11 to 3.13, because the ROS 2 wheels exist for those ---
usable() {
    command -v "$1" >/dev/null &&
        "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13}; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    complain "No Python 3.11, 3.12 or 3.13 found; tried ${PYTHON:-python3 python3.12 python3.11 python3.13}." \
        "Install one, or name it: make setup PYTHON=/path/to/python3.12"
    return 1
}

# --- system packages: a compiler and headers for the messages, SuiteSparse for CHOLMOD ---
missing_packages() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null || echo "$(basename "$1")-venv"
    command -v cc >/dev/null && command -v c++ >/dev/null || echo build-essential
    "$1" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || echo "$(basename "$1")-dev"
    ls /usr/include/suitesparse/cholmod.h /usr/local/include/suitesparse/cholmod.h >/dev/null 2>&1 ||
        [ -n "$(find /usr/include /usr/local/include -maxdepth 2 -name cholmod.h 2>/dev/null | head -1)" ] ||
        echo libsuitesparse-dev
}

install_packages() {
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        as_root=(sudo -n)
        sudo -n true 2>/dev/null || return 1
    fi
    command -v apt-get >/dev/null || return 1
    "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
            </dev/null >/dev/null
}

prepare_system() {
    local missing
    mapfile -t missing < <(missing_packages "$1")
    [ ${#missing[@]} -gt 0 ] || return 0
    say "system packages: ${missing[*]}"
    install_packages "${missing[@]}" && return 0
    complain "Could not install ${missing[*]}: that takes root or password-less sudo, and apt. By hand:" \
        "  sudo apt-get install ${missing[*]}"
    case " ${missing[*]} " in *" python"*"-venv "*)
        complain "Without python3-venv there is no virtual environment: stopping."
        return 1 ;;
    esac
    case " ${missing[*]} " in *" build-essential "* | *" python"*"-dev "*)
        complain "Without a compiler and the Python headers the ROS 2 messages cannot be built: stopping."
        return 1 ;;
    esac
    complain "Without libsuitesparse-dev CHOLMOD is left out: dense and Schur solvers remain, its tests are skipped."
}

# --- Python packages, all pinned by constraints.txt ---
make_environment() {
    [ -x "$venv/bin/python" ] || "$1" -m venv "$venv"
    pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
    "${pip[@]}" install --constraint constraints.txt pip
    pip+=(install --constraint constraints.txt)
    # The pinned torch first: a range would take the newest build.
    say "Python packages into $venv (torch is large: this can take minutes)"
    "${pip[@]}" "$(grep '^torch==' constraints.txt)"
    say "dnls_ros with its messages"
    "${pip[@]}" --build-constraint constraints.txt '.[dev,docs,kernels,kinematics,ros]'
}

add_cholmod() {
    "$venv/bin/python" -c 'import sksparse.cholmod' 2>/dev/null && return 0
    say "scikit-sparse (CHOLMOD)"
    "${pip[@]}" --build-constraint constraints.txt scikit-sparse ||
        complain "scikit-sparse did not build (libsuitesparse-dev missing?): CHOLMOD is left out, its tests are skipped."
}

compile_kernels() {
    say "kernels for this machine (a minute; kept for the user)"
    "$venv/bin/python" -m dnls_ros.cli warmup
}

python=$(find_python)
prepare_system "$python"
make_environment "$python"
add_cholmod
compile_kernels
say "ready: $venv"
