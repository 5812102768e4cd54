#!/usr/bin/env bash
# Proves the colcon route without a ROS 2 installation: builds this package with the real ament and colcon from wheels,
# in an environment of its own, copied and with --symlink-install, and runs its package tests against each result.
# usage: scripts/colcon.sh [ENVIRONMENT]   (default .venv-colcon)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/${1:-.venv-colcon}
python=${PYTHON:-$PWD/.venv/bin/python}

if [ ! -e "$venv/.ready" ] || [ constraints.txt -nt "$venv/.ready" ] || [ pyproject.toml -nt "$venv/.ready" ]; then
    echo "== colcon's environment: $venv"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    # What pip would need to build and run the package, and colcon; but not the package itself.
    requirements=$(mktemp)
    trap 'rm -f "$requirements"' EXIT
    "$python" - >"$requirements" <<'P'
import tomllib
table = tomllib.load(open("pyproject.toml", "rb"))
extras = table["project"]["optional-dependencies"]
print(*table["build-system"]["requires"], *table["project"]["dependencies"], *extras["ros"], sep="\n")
print("pytest", "colcon-common-extensions", sep="\n")
P
    pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install --constraint constraints.txt)
    "${pip[@]}" pip
    "${pip[@]}" "$(grep '^torch==' constraints.txt)" --requirement "$requirements"
    touch "$venv/.ready"
fi

export PATH="$venv/bin:$PATH" AMENT_PREFIX_PATH="$venv" CMAKE_PREFIX_PATH="$venv"
prove() {
    local work=build/colcon$1
    rm -rf "$work"
    echo "== colcon build $1"
    colcon --log-base "$work/log" build --build-base "$work/build" --install-base "$work/install" $1 \
        --cmake-args -G Ninja "-DPython3_EXECUTABLE=$venv/bin/python"
    echo "== what it installed"
    (
        set +u # colcon's scripts read variables that may be unset
        . "$work/install/setup.bash"
        set -u
        cd / # not the checkout: what is imported is what was installed
        "$venv/bin/python" -c "
import apriltag_msgs.msg, dnls_ros.msg, dnls_ros.srv, tf2_msgs.msg
from dnls_ros.io.definitions import typestore
print('installed:', dnls_ros.__file__)
assert 'install' in dnls_ros.__path__[0] or 'install' in dnls_ros.msg.__file__
typestore()"
    )
    test -x "$work/install/dnls_ros/lib/dnls_ros/estimator_node"
    test -d "$work/install/dnls_ros/share/dnls_ros/launch"
    test -d "$work/install/dnls_ros/share/dnls_ros/config"
    echo "== colcon test"
    colcon --log-base "$work/log" test --build-base "$work/build" --install-base "$work/install" \
        --ctest-args -R '^package$'
    colcon --log-base "$work/log" test-result --test-result-base "$work/build" --verbose
}
prove ""
prove --symlink-install
