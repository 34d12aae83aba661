#!/usr/bin/env bash
# Trains as a SLURM job, a process per GPU: sbatch launch/cluster/slurm.sh, in the root of a checkout that all nodes see.
# A minute before its time is up, or when it is preempted, the job saves and queues itself again.

# ---- change these lines ----
#SBATCH --job-name=raserec
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
workdir=runs/mine # one folder, seen by all nodes
config=configs/raserec.py
interactions=interactions.tsv.gz
mesh=data:-1,model:1
# ----------------------------
#SBATCH --requeue
#SBATCH --signal=TERM@60
set -euo pipefail

code=0
srun --kill-on-bad-exit=0 .venv/bin/python launch/train.py --coordinator=auto --config="$config" \
  --config.data.interactions="$interactions" --workdir="$workdir" --mesh="$mesh" || code=$?
# 4: interrupted, or a process was lost; above 128: killed. The next start goes on from the last checkpoint.
if [[ $code == 4 || $code -gt 128 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
