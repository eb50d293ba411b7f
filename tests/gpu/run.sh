#!/usr/bin/env bash
# All that wants a GPU, in one call on a machine that has one: tests/gpu/run.sh [FOLDER] (default gpu-results)
# No network, under 8 minutes: tests on the device, memory checked on 16 atoms, agreement with the CPU, speed, memory,
# dynamics, a training epoch, reduced precision. FOLDER/gpu.json and gpu.md hold the numbers; the exit code is that of
# the first part that failed. TEST_SECONDS (default 200) bounds the tests, MEASURE_SECONDS (default 240) the measurements;
# SKIP_TESTS=1 leaves out the tests.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)
cd "$root" || exit 2
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python}
failed=0
part() { # name, seconds, command
    local name=$1 limit=$2 status
    shift 2
    echo "== $name"
    timeout "$limit" "$@"
    status=$?
    if [ "$status" = 124 ] || [ "$status" = 143 ]; then
        echo "== $name took longer than $limit s" >&2
    fi
    if [ "$status" != 0 ]; then
        echo "== $name failed with exit code $status" >&2
        if [ "$failed" = 0 ]; then failed=$status; fi
    fi
}

# fakecuda: a stand-in for the device, see tests/fakecuda; slower than one, most of all on a busy machine
plugin=()
start=()
if [ -n "${FAKECUDA:-}" ]; then
    export PYTHONPATH="$FAKECUDA:$PYTHONPATH"
    plugin=(-p fakecuda)
    start=(-c 'import fakecuda, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")')
fi

[ -n "${SKIP_TESTS:-}" ] || part "tests with the device" "${TEST_SECONDS:-200}" "$python" -m pytest "${plugin[@]}" -n 0 -q \
    tests/gpu tests/calculator/test_calculator.py tests/calculator/test_bad_input.py tests/training/test_evaluate.py
sanitizer=$(command -v compute-sanitizer || true)
if [ -n "$sanitizer" ]; then
    part "memory of 16 atoms" 120 "$sanitizer" --tool memcheck --error-exitcode 3 "$python" -c '
from ase.build import bulk
from ase_ldos import LDOSCalculator
atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(2)
atoms.rattle(0.05, seed=1)
atoms.calc = LDOSCalculator("be", device="cuda")
atoms.get_stress()'
else
    echo "== compute-sanitizer is not installed: memory is not checked"
fi
part "measurements" $((2 * ${MEASURE_SECONDS:-240} + 60)) "$python" "${start[@]}" tests/gpu/measure.py \
    --out "$out" --seconds "${MEASURE_SECONDS:-240}"
echo "== numbers in $out/gpu.json, a table in $out/gpu.md"
exit "$failed"
