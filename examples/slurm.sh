#!/bin/bash
# Trains on 2 nodes of 4 GPUs as one run, however often the cluster interrupts it:
#
#   sbatch examples/slurm.sh --config=configs/conv_vae.py:colour,128 --workdir=runs/faces
#
# The environment, runs/ and the data set lie on a file system that all nodes see.

#SBATCH --job-name=vae_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
# SIGTERM to the tasks two minutes before the end: time for the next log and a save.
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=vae_jax-%j.log

source .venv/bin/activate
# Or glibc's heap grows from save to save, one for each of the threads that write.
export MALLOC_ARENA_MAX=2

# Not to be killed in the others' last second: JAX ends those whose company is gone.
srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" --label \
  python -m vae_jax.main "$@"
status=$?

# 75: stopped and saved; 143: stopped where there is nothing to save, before the first
# update or while figures are drawn. The job goes on when it gets its nodes again.
if [ $status -eq 75 ] || [ $status -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
