# shellcheck shell=bash
# Shared by the training jobs pretrain.sh and finetune.sh, which source it; not a program.
#
# run_job ROW FLAGS...: run scripts/ROW.sh in every task of the job, one task per GPU, until its work is done.
#
# OUTPUT_DIR (default ckpts/ROW), DATA_DIR, INIT_MODEL and PYTHON are those of scripts/common.sh. In addition:
#   MASTER_PORT       a free port on the first node [computed from the job id]
#   MAX_RESTARTS=100  how often a job may start itself again
set -euo pipefail

run_job() {
    local row=$1 hosts code=0
    shift
    if [ -z "${SLURM_JOB_ID:-}" ]; then
        echo "$row: not in a job; submit the script by sbatch, from the checkout" >&2
        exit 2
    fi
    if [ ! -f "scripts/$row.sh" ] || [ "$row" = common ]; then
        echo "$row: no such row; give the name of a script in scripts/ (scripts/README.md)" >&2
        exit 2
    fi
    if [[ " $* " == *" --output_dir"* ]]; then
        echo "$row: --output_dir: set OUTPUT_DIR instead, this script needs it too" >&2
        exit 2
    fi
    export OUTPUT_DIR=${OUTPUT_DIR:-ckpts/$row}
    hosts=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?}")
    export MASTER_ADDR=${hosts%%$'\n'*} # the first node
    export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    trap : TERM # a job that loses its nodes: wait for the ranks to save
    # Every task becomes one rank: each shell on the way is replaced (exec), so Slurm's signals reach each rank once.
    # --gpu-bind=none: a rank sees all GPUs of its node and takes the one of its local rank.
    # srun does not take --cpus-per-task from sbatch.
    # shellcheck disable=SC2016 # the variables are those of each task
    srun --kill-on-bad-exit=1 --gpu-bind=none ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
        bash -c 'export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID NPROC=1 NNODES=1
            exec bash "$@"' task "scripts/$row.sh" --resume auto "$@" || code=$?
    if [ "$code" != 0 ]; then
        echo "$row: ended with code $code; not started again" >&2
        exit "$code"
    fi
    requeue_if_stopped
}

# A run writes OUTPUT_DIR/stopped if a signal ended it before it was done.
requeue_if_stopped() {
    [ -e "$OUTPUT_DIR/stopped" ] || return 0
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${MAX_RESTARTS:-100}" ]; then
        echo "stopped before its work was done; already started again ${SLURM_RESTART_COUNT} times" >&2
        exit 1
    fi
    echo "stopped before its work was done; back into the queue"
    scontrol requeue "$SLURM_JOB_ID" # ends this script too
}
