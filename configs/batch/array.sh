#!/bin/bash
#SBATCH --job-name=metadist
#SBATCH --array=0-7
#SBATCH --cpus-per-task=1
#SBATCH --requeue
# A federation as a Slurm array: each task trains its part of the nodes in every round, the first one closes the rounds.
#
#     metadist partition CONFIG
#     sbatch --wait configs/batch/array.sh CONFIG ROUNDS [MIN_NODES]
#     metadist finetune CONFIG
#
# The tasks share the run's folder and nothing else. A task that is killed and started again repeats nothing that is
# done. With MIN_NODES a round is closed without the others once PATIENCE (2h) is over; they are named and dropped.
set -euo pipefail
config=$1 rounds=$2 quorum=${3:-} patience=${PATIENCE:-2h}

for round in $(seq "$rounds"); do
    metadist train "$config" --nodes slurm --round "$round" --wait "$patience"
    if [ "$SLURM_ARRAY_TASK_ID" -eq "$SLURM_ARRAY_TASK_MIN" ]; then
        metadist aggregate "$config" --round "$round" --wait "$patience" ${quorum:+--min-nodes "$quorum"}
    fi
done
