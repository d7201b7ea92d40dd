#!/usr/bin/env bash
# A run under Slurm, whose ranks srun starts:
#
#     sbatch iccluster/slurm-srun.sh --arch resnet20 --num_epochs 300
#     sbatch --array=1-3 iccluster/slurm-srun.sh --num_epochs 300       # three seeds
#     sbatch --time=5 iccluster/slurm-srun.sh --check                   # only test what it needs
#
# From the root of the repository, with the environment activated in which `python` has pcode's
# packages; flags are those of run.py. It needs a Slurm with PMIx (`srun --mpi=list`). Where there is
# none, MPI=none lets the ranks talk through gloo; slurm-mpirun.sh starts them with mpirun.
#
#SBATCH --job-name=choco
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
# Two minutes before that time is up all ranks get SIGUSR1: they save and end with status 75.
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -u

# A rank's share of a host's cores is what it asked Slurm for.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# Slurm offers munge as well, which the Open MPI of PyPI has no module for, and says so at length.
export PMIX_MCA_psec="${PMIX_MCA_psec:-native}"

# Its own name for each job, which a job that is started again keeps: --resume auto finds it.
flags=(
    --n_mpi_process "$SLURM_NTASKS"
    --experiment "slurm-$SLURM_JOB_ID"
    --manual_seed "${SLURM_ARRAY_TASK_ID:-6}"
    --resume auto
)
# srun does not take the number of cores from the job.
srun --mpi="${MPI:-pmix}" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 \
    python -u run.py "${flags[@]}" "$@"
status=$?
if [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
