#!/usr/bin/env bash
# A run under Slurm, whose ranks run.py starts with mpirun: also where Slurm has no PMIx.
#
#     sbatch iccluster/slurm-mpirun.sh --arch resnet20 --num_epochs 300
#     sbatch --time=5 iccluster/slurm-mpirun.sh --check
#
# From the root of the repository, with the environment activated in which `python` has pcode's
# packages; flags are those of run.py. mpirun reaches the job's hosts through Slurm, without ssh.
#
#SBATCH --job-name=choco
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
# Two minutes before that time is up this script gets SIGUSR1, and hands it on: the ranks save, and
# run.py ends with status 75.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -u

# A rank's share of a host's cores is what it asked Slurm for.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

hostfile=$(mktemp)
trap 'rm -f "$hostfile"' EXIT
scontrol show hostnames "$SLURM_JOB_NODELIST" |
    sed "s/\$/ slots=$SLURM_NTASKS_PER_NODE/" > "$hostfile"

# Its own name for each job, which a job that is started again keeps: --resume auto finds it.
flags=(
    --hostfile "$hostfile"
    --n_mpi_process "$SLURM_NTASKS"
    --experiment "slurm-$SLURM_JOB_ID"
    --manual_seed "${SLURM_ARRAY_TASK_ID:-6}"
    --resume auto
)
python -u run.py "${flags[@]}" "$@" &
run=$!
trap 'kill -USR1 "$run"' USR1
# wait returns when the signal comes, and has to be called again.
status=129
while [ "$status" -gt 128 ] && kill -0 "$run" 2> /dev/null; do
    wait "$run"
    status=$?
done
if [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
