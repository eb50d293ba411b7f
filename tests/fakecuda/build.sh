#!/usr/bin/env bash
# Builds the fake device for the Python on the PATH and its CPU build of torch: build.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:?name a folder to build in}
mkdir -p "$out"
read -r torch include suffix < <(python - <<'END'
import importlib.util, pathlib, sysconfig
torch = pathlib.Path(importlib.util.find_spec("torch").origin).parent
print(torch, sysconfig.get_paths()["include"], sysconfig.get_config_var("EXT_SUFFIX"))
END
)
build() { # source, result, more arguments
    local source=$1 result=$2
    shift 2
    g++ -std=c++20 -O0 -g0 -shared -fPIC -I"$torch/include" -I"$include" \
        "$here/$source" -o "$out/$result" -L"$torch/lib" -Wl,-rpath,"$torch/lib" -lc10 -ltorch_cpu "$@"
}
build hooks.cpp libfakecuda_hooks.so
build device.cpp "_fakecuda$suffix"
cp "$here/fakecuda.py" "$out/"
