#!/bin/bash
#SBATCH --job-name=metadist
#SBATCH --array=0-7
#SBATCH --cpus-per-task=1
#SBATCH --requeue
# Run a federation as a Slurm array: each task trains its share of the nodes in every round, and task 0 closes rounds.
#
#     metadist partition CONFIG
#     sbatch --wait configs/batch/array.sh CONFIG ROUNDS [MIN_NODES]
#     metadist finetune CONFIG
#
# The tasks share only the run's folder. Each waits for the others, so all must run at once: do not limit the array with
# --array=0-7%4. A killed task can be restarted by `scontrol requeue`, or as an array of its own that is given the number
# of parts; it repeats at most half a minute and the nodes that were training:
#
#     PARTS=8 sbatch --array=3 configs/batch/array.sh CONFIG ROUNDS [MIN_NODES]
#
# With MIN_NODES, a round closes after PATIENCE (2h) if at least that many nodes have reported; the rest are dropped.
set -euo pipefail
config=$1 rounds=$2 quorum=${3:-} patience=${PATIENCE:-2h} task=$SLURM_ARRAY_TASK_ID parts=${PARTS:-$SLURM_ARRAY_TASK_COUNT}

if [ -z "${PARTS:-}" ] && [ "${SLURM_ARRAY_TASK_MIN}" -ne 0 ]; then
    echo "this array does not start with task 0: set PARTS to the number of tasks of the full array" >&2
    exit 2
fi
for round in $(seq "$rounds"); do
    metadist train "$config" --nodes "$task/$parts" --round "$round" --wait "$patience"
    if [ "$task" -eq 0 ]; then
        metadist aggregate "$config" --round "$round" --wait "$patience" ${quorum:+--min-nodes "$quorum"}
    fi
done
