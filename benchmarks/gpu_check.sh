#!/usr/bin/env bash
# Ask a GPU all that this project says of one, in one call of less than 450 s:
#
#     bash benchmarks/gpu_check.sh [FOLDER]
#
# What is right comes first, what is fast afterwards, never both at a time. Logs, figures and the
# table that is printed at the end go to FOLDER (gpu-results). Where WHEELS names a folder of
# wheels, for a machine without a network, these are installed first, into a virtual environment
# that shows the packages of PYTHON (python3) too. Ends with status 1 where a part failed or a bound
# does not hold; without a GPU all parts say so, and that is no failure.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
most_seconds=450
python=${PYTHON:-python3}
folder=$(realpath -m "${1:-gpu-results}")
scratch=$(mktemp -d)
mkdir -p "$folder"
trap 'rm -rf "$scratch"' EXIT
export PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=$scratch/triton NUMBA_CACHE_DIR=$scratch/numba

if [[ -n ${WHEELS:-} ]]; then
    site=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])')
    "$python" -m venv "$scratch/venv"
    python=$scratch/venv/bin/python
    echo "$site" >"$("$python" -c 'import site; print(site.getsitepackages()[0])')/others.pth"
    "$python" -m pip install --quiet --no-index --no-deps --force-reinstall "$WHEELS"/*.whl
fi
PATH=$(dirname "$(command -v "$python")"):$PATH

# Run a part within its limit and what is left of all: NAME SECONDS COMMAND...
part() {
    local name=$1 limit=$2 begin=$SECONDS status=0
    shift 2
    rm -f "$folder/$name".{log,xml,json}
    ((limit = limit < most_seconds - SECONDS ? limit : most_seconds - SECONDS))
    if ((limit > 0)); then
        timeout -k 5 "$limit" "$@" >"$folder/$name.log" 2>&1 || status=$?
    else
        status=124 # there was no time left for it
    fi
    # What needs a GPU ends so without one.
    [[ $has_gpu == True || $status != 2 ]] || status=left-out
    echo "$name $status $((SECONDS - begin))" >>"$scratch/parts"
    printf '%-12s %8s, %3d s\n' "$name" "$status" $((SECONDS - begin))
}

# Tests of a part, several at a time: NAME SECONDS PROCESSES PATH...
tests() {
    local name=$1 limit=$2 processes=$3
    shift 3
    part "$name" "$limit" "$python" -m pytest -p no:cacheprovider -n "$processes" --dist worksteal \
        --maxfail 25 --tb short -rfE --junitxml "$folder/$name.xml" "$@"
}

measure() {
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$python" "$@" --output "$folder/$name.json"
}

has_gpu=$("$python" -c 'import torch; print(torch.cuda.is_available())')
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
part nccl 40 env RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 "$python" run.py \
    --n_mpi_process 1 --backend nccl --on_cuda True --arch mlp --num_epochs 1 \
    --checkpoint "$scratch/runs"
measure kernels 60 benchmarks/gpu_kernels.py --repeats 30
measure resnet50 60 benchmarks/gpu_steps.py --rounds 8 --block 5
measure simulation 100 benchmarks/gpu_simulation.py --rounds 5 --block 8
measure ranks 60 benchmarks/gpu_steps.py --ranks 2 --batch 64 --rounds 5 --block 5
"$python" benchmarks/gpu_report.py "$folder" "$scratch/parts"
