#!/bin/bash
#SBATCH --job-name=metadist
#SBATCH --array=0-7
#SBATCH --cpus-per-task=1
#SBATCH --requeue
# A federation as a Slurm array: each task trains its part of the nodes in every round, task 0 closes the rounds.
#
#     metadist partition CONFIG
#     sbatch --wait configs/batch/array.sh CONFIG ROUNDS [MIN_NODES]
#     metadist finetune CONFIG
#
# The tasks share the run's folder and nothing else. Each waits for the others, so all of them must run at once: no
# --array=0-7%4. A task that is killed and started again repeats half a minute at most and its running nodes: by
# `scontrol requeue`, or as an array of its own, which must be told how many parts there are:
#
#     PARTS=8 sbatch --array=3 configs/batch/array.sh CONFIG ROUNDS [MIN_NODES]
#
# With MIN_NODES a round is closed without the others once PATIENCE (2h) is over; they are named and dropped.
set -euo pipefail
config=$1 rounds=$2 quorum=${3:-} patience=${PATIENCE:-2h} task=$SLURM_ARRAY_TASK_ID parts=${PARTS:-$SLURM_ARRAY_TASK_COUNT}

if [ -z "${PARTS:-}" ] && [ "${SLURM_ARRAY_TASK_MIN}" -ne 0 ]; then
    echo "this array does not begin with task 0: set PARTS to the number of tasks of the whole one" >&2
    exit 2
fi
for round in $(seq "$rounds"); do
    metadist train "$config" --nodes "$task/$parts" --round "$round" --wait "$patience"
    if [ "$task" -eq 0 ]; then
        metadist aggregate "$config" --round "$round" --wait "$patience" ${quorum:+--min-nodes "$quorum"}
    fi
done
