#!/usr/bin/env bash
# Ask a GPU all that this project says of one, in one call of less than 450 s:
#
#     bash benchmarks/gpu_check.sh [FOLDER]
#
# What is right comes first, what is fast afterwards, never both at a time. Logs, figures and the
# table that is printed at the end go to FOLDER (gpu-results of this repository). Where WHEELS names
# a folder of wheels, for a machine without a network, these are installed first, into a virtual
# environment that shows the packages of PYTHON (python3) too. Ends with status 1 where a part
# failed or a bound does not hold; without a GPU all parts say so, and that is no failure.
set -uo pipefail

end() {
    echo "gpu_check.sh: $*" >&2
    exit 1
}

# What is given is relative to where the script is called. A virtual environment's python is a link,
# which is not to be followed.
python=$(command -v "${PYTHON:-python3}") || end "there is no ${PYTHON:-python3}"
python=$(realpath --no-symlinks "$python")
folder=${1:+$(realpath -m "$1")}
wheels=${WHEELS:+$(realpath -m "$WHEELS")}
cd "$(dirname "$0")/.." || exit
most_seconds=435 # the last part may take 10 more to end
folder=${folder:-$PWD/gpu-results}
mkdir -p "$folder" || end "cannot write to $folder"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# The programs that the parts start find this folder's pcode, whether or not one is installed.
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=$scratch/triton NUMBA_CACHE_DIR=$scratch/numba

if [[ -n $wheels ]]; then
    site=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])') ||
        end "$python does not import torch"
    "$python" -m venv "$scratch/venv" || end "$python makes no virtual environment"
    python=$scratch/venv/bin/python
    echo "$site" >"$("$python" -c 'import site; print(site.getsitepackages()[0])')/others.pth"
    "$python" -m pip install --quiet --no-index --no-deps --force-reinstall "$wheels"/*.whl ||
        end "pip does not install the wheels of $wheels"
fi
PATH=$(dirname "$python"):$PATH

# Run a part within its limit and what is left of all: NAME SECONDS COMMAND... With ends_without_gpu
# it counts as left out if there is no GPU and it says so: status 2 alone may be a wrong flag's.
part() {
    local name=$1 limit=$2 begin=$SECONDS status=0
    shift 2
    rm -f "$folder/$name".{log,xml,json}
    ((limit = limit < most_seconds - SECONDS ? limit : most_seconds - SECONDS))
    if ((limit > 0)); then
        # Interrupted, pytest still reports the tests that it has run.
        timeout -s INT -k 10 "$limit" "$@" >"$folder/$name.log" 2>&1 || status=$?
    else
        status=124 # there was no time left for it
    fi
    if [[ -n ${ends_without_gpu:-} && $has_gpu == False && $status == 2 ]] &&
        grep -q 'this machine has no GPU' "$folder/$name.log"; then
        status=left-out
    fi
    echo "$name $status $((SECONDS - begin))" >>"$scratch/parts"
    printf '%-12s %8s, %3d s\n' "$name" "$status" $((SECONDS - begin))
}

# Tests of a part, several at a time: NAME SECONDS PROCESSES PATH... One that hangs is given half of
# the part's time, so that the others have a report: its worker is ended, which a hang in C does not
# prevent as it does a signal's handler, and replaced; what it was at is in the log, as are, by -vv
# (a -q is in pyproject.toml), the tests that had begun.
tests() {
    local name=$1 limit=$2 processes=$3
    shift 3
    part "$name" "$limit" "$python" -m pytest -p no:cacheprovider -n "$processes" --dist worksteal \
        --timeout $((limit / 2)) -o timeout_method=thread -o faulthandler_timeout=$((limit / 2 - 2)) \
        --maxfail 25 --tb short -vv -rfE --junitxml "$folder/$name.xml" "$@"
}

measure() {
    local name=$1 limit=$2
    shift 2
    ends_without_gpu=yes part "$name" "$limit" "$python" "$@" --output "$folder/$name.json"
}

has_gpu=$("$python" -c 'import torch; print(torch.cuda.is_available())') ||
    end "$python does not import torch"
part machine 40 "$python" -c '
from importlib.metadata import version
import pcode.main, torch
for name in ("torch", "triton", "numba", "numpy", "mpi4py"):
    print(name, version(name))
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
kernels=(tests/compression/gpu) # without a GPU these are for Triton's interpreter
[[ $has_gpu == True ]] || kernels=()
tests compression 110 6 tests/gpu/test_compression.py "${kernels[@]}"
tests steps 50 2 tests/gpu/test_steps.py
tests runs 150 6 tests/gpu/test_runs.py
# A rank alone goes through NCCL's start and end; without a GPU that is a mistake, with status 2.
export MASTER_ADDR=127.0.0.1 MASTER_PORT=29517
ends_without_gpu=yes part nccl 40 env RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 \
    "$python" run.py --n_mpi_process 1 --backend nccl --on_cuda True --arch mlp --num_epochs 1 \
    --checkpoint "$scratch/runs"
measure kernels 60 benchmarks/gpu_kernels.py --repeats 30
measure resnet50 60 benchmarks/gpu_steps.py --rounds 8 --block 5
measure simulation 100 benchmarks/gpu_simulation.py --rounds 5 --block 8
measure ranks 60 benchmarks/gpu_steps.py --ranks 2 --batch 64 --rounds 5 --block 5
"$python" benchmarks/gpu_report.py "$folder" "$scratch/parts"
