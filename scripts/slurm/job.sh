# shellcheck shell=bash
# Shared by the training jobs pretrain.sh and finetune.sh, which source it; not a program.
#
# run_job ROW FLAGS...: run scripts/ROW.sh in every task of the job, one task per GPU, until its work is done.
#
# OUTPUT_DIR (default ckpts/ROW), DATA_DIR, INIT_MODEL and PYTHON are those of scripts/common.sh. In addition:
#   MASTER_ADDR       a name or address of the first node that all nodes know [its name in Slurm]
#   MASTER_PORT       a free port on the first node [computed from the numbers of job and step]
#   MAX_RESTARTS=100  how often a job may start itself again
set -euo pipefail

run_job() {
    local row=$1 code=0 keep_signals=()
    shift
    trap : TERM HUP USR1 # a job that loses its nodes: wait for the ranks to save
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
    export PATH # `sbatch --export=NAME` leaves it out; bash then has its own, but does not export it
    export OUTPUT_DIR=${OUTPUT_DIR:-ckpts/$row} NPROC=1 NNODES=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    if [[ " $* " =~ " "(--help|--dry-run)" " ]]; then
        exec bash "scripts/$row.sh" "$@"
    fi
    rm -f "$OUTPUT_DIR/stopped" # of an earlier start: this one has not stopped yet
    unset RANK WORLD_SIZE LOCAL_RANK # of the shell that called sbatch; the program reads Slurm's variables
    # A rank gets no signal before the program unblocks them, so that none is lost. Older versions of env cannot do it.
    if env --block-signal=USR1 true 2> /dev/null; then
        keep_signals=(--block-signal=USR1 --block-signal=TERM --block-signal=INT --block-signal=HUP)
    fi
    # Every task becomes one rank: each program on the way is replaced (exec), so Slurm's signals reach each rank once.
    # --gpu-bind=none: a rank sees all GPUs of its node and takes the one of its local rank.
    # srun does not take --cpus-per-task from sbatch, and takes --export, which would keep variables from the ranks.
    srun --kill-on-bad-exit=1 --export=ALL --gpu-bind=none \
        ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
        env ${keep_signals[@]+"${keep_signals[@]}"} bash "scripts/$row.sh" --resume auto "$@" || code=$?
    finish "$row" "$code"
}

# After the ranks: start the job again if a signal stopped them (OUTPUT_DIR/stopped, or code 75 if it came too early
# for a save), unless Slurm does so itself or the job was cancelled.
finish() {
    local row=$1 code=$2 job state='' reason='' restarts=${SLURM_RESTART_COUNT:-0} preempted='' stopped=''
    job=$(scontrol show job --oneliner "$SLURM_JOB_ID" 2> /dev/null) || job=
    [[ ! $job =~ JobState=([A-Z]+) ]] || state=${BASH_REMATCH[1]}
    [[ ! $job =~ \ Reason=([^ ]+) ]] || reason=${BASH_REMATCH[1]}
    [[ ! $job =~ \ Restarts=([0-9]+) ]] || restarts=${BASH_REMATCH[1]}
    [[ ! $job =~ \ PreemptTime=[0-9] ]] || preempted=yes
    [ ! -e "$OUTPUT_DIR/stopped" ] || stopped=$(< "$OUTPUT_DIR/stopped")
    if [ "$restarts" -gt "${SLURM_RESTART_COUNT:-0}" ]; then
        echo "$row: ended with code $code; Slurm starts the job again"
        exit "$code"
    fi
    if [[ $state =~ ^(COMPLETING|CANCELLED)$ ]] && [ "$reason" != TimeLimit ]; then
        echo "$row: the job was cancelled, so it is not started again${stopped:+; $stopped}" >&2
        exit "$code"
    fi
    # 138: SIGUSR1 ended a rank that had no handler yet. Other signals may come from elsewhere than from Slurm.
    if [ "$code" = 75 ] || [ "$code" = 138 ] || { [ "$code" -gt 128 ] && [ -n "$preempted" ]; }; then
        stopped="stopped by a signal before anything was trained"
    elif [ "$code" != 0 ]; then
        echo "$row: ended with code $code; not started again" >&2
        exit "$code"
    fi
    [ -z "$stopped" ] || start_again "$row"
}

start_again() {
    local row=$1
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${MAX_RESTARTS:-100}" ]; then
        echo "$row: stopped before its work was done; already started again ${SLURM_RESTART_COUNT} times" >&2
        exit 1
    fi
    echo "$row: stopped before its work was done; back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || { # ends this script too
        echo "$row: the job cannot go back into the queue; submit it again, and it continues" >&2
        exit 1
    }
}
