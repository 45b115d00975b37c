# Shared by the scripts of the published tables, which source it; not a program.
#
# A script sources this file with its own arguments, then calls `launch PROGRAM FLAGS...` once.
# Options of every script: --dry-run prints the command and runs nothing, --help explains. Other arguments go to
# the program after the script's flags and override them (e.g. --seed 43, --precision bf16).
# Environment variables and their defaults:
#   NPROC=8           processes (GPUs) on this machine; evaluation: 1. With one process no launcher is used
#   NNODES=1          machines; above 1, also set NODE_RANK (0, 1, ...) and MASTER_ADDR on each of them
#   MASTER_PORT       a free port on MASTER_ADDR. Default: one machine, any free port; several, 11000
#   DATA_DIR          folder of the data sets (docs/DATA.md), default $HMMC_DATA or data
#   OUTPUT_DIR        where the run writes, default ckpts/NAME-OF-THE-SCRIPT
#   INIT_MODEL        checkpoint to start from, in scripts that need one
#   PYTHON            default .venv/bin/python if it exists, else python3
# Relative paths start at the checkout.
set -euo pipefail
script=$0
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=$(basename "$script" .sh)

die() { echo "$name.sh: $*" >&2; exit 2; }

usage() {  # the comment at the top of the script, then the one at the top of this file
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "scripts/$name.sh"
    echo
    sed -n '4,/^[^#]/{/^#/s/^# \{0,1\}//p}' scripts/common.sh
}

default_nproc=8  # as published; evaluations set 1
dry_run= extra=()
for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=yes ;;
        --help) usage; exit 0 ;;
        *) extra+=("$argument") ;;
    esac
done

# The flags that all published commands have, and those of each job (docs/REPRODUCE.md says which are published
# and which are inferred). Published rows are the best epoch by R@1 on the test list: --select_on test.
model=(--max_frames 12 --use_temp --use_frame_fea)
pretrain=(--do_pretrain --dataset chvtt "${model[@]}" --top_frames 3 --frame_sample random --batch_size 128
    --batch_size_val 128 --contrast_num_negative 1024 --contrast_momentum 0.99 --lr 1e-4 --coef_lr 1e-3
    --num_thread_reader 8 --select_on test)
finetune=(--do_train "${model[@]}" --frame_sample random --epochs 5 --batch_size 256 --batch_size_val 256
    --lr 1e-4 --coef_lr 1e-3 --num_thread_reader 8 --n_display 100 --select_on test)
# The recipes of other heads: DRL's flags (both towers at 1e-7, the rest at 1e-4), which CLIP4Clip has too.
drl=(--do_train --max_frames 12 --max_words 32 --epochs 5 --batch_size 128 --batch_size_val 128 --lr 1e-4
    --coef_lr 1e-3 --text_lr 1e-7 --num_thread_reader 8 --n_display 50)
evaluate=(--do_eval "${model[@]}" --batch_size_val 256 --num_thread_reader 8)

start_from() {  # start_from SCRIPT EPOCH: INIT_MODEL, else the checkpoint of SCRIPT after EPOCH (from 0)
    init_model=${INIT_MODEL:-ckpts/$1/pytorch_model.bin.$2}
    [ -n "$dry_run" ] || [ -f "$init_model" ] ||
        die "$init_model: no such file; run scripts/$1.sh first, or set INIT_MODEL"
}

hangup_is_ignored() {  # as under nohup; false where there is no /proc
    local mask
    mask=$(sed -n 's/^SigIgn:[[:space:]]*//p' "/proc/$$/status" 2> /dev/null) || return 1
    [ -n "$mask" ] && [ $((0x$mask & 1)) = 1 ]
}

launch() {  # launch PROGRAM FLAGS...: run it, or print it, on NPROC processes of each of NNODES machines
    local program=$1 nproc=${NPROC:-$default_nproc} nnodes=${NNODES:-1} python=${PYTHON:-}
    shift
    [[ $nproc =~ ^[1-9][0-9]*$ ]] || die "NPROC=$nproc: must be a number from 1"
    [[ $nnodes =~ ^[1-9][0-9]*$ ]] || die "NNODES=$nnodes: must be a number from 1"
    if [ "$nnodes" != 1 ] && { [ -z "${NODE_RANK:-}" ] || [ -z "${MASTER_ADDR:-}" ]; }; then
        die "NNODES=$nnodes: also set NODE_RANK and MASTER_ADDR"
    fi
    if [ -z "$python" ]; then
        python=python3
        [ ! -x .venv/bin/python ] || python=.venv/bin/python
    fi
    if [ "${SLURM_STEP_NUM_TASKS:-1}" != 1 ] && [ "$nproc" != 1 ] && [ "$nnodes" = 1 ]; then
        die "srun starts $SLURM_STEP_NUM_TASKS tasks, and each would start $nproc processes: set NPROC=1"
    fi
    local command=("$python")
    if [ "$nproc" != 1 ] && [ "$nnodes" = 1 ] && [ -z "${MASTER_PORT:-}" ]; then
        # A fixed port would end a second run on this machine.
        command+=(-m torch.distributed.run --standalone --nproc_per_node "$nproc")
    elif [ "$nproc" != 1 ] || [ "$nnodes" != 1 ]; then
        command+=(-m torch.distributed.run --nproc_per_node "$nproc" --nnodes "$nnodes"
            --node_rank "${NODE_RANK:-0}" --master_addr "${MASTER_ADDR:-127.0.0.1}"
            --master_port "${MASTER_PORT:-11000}")
    fi
    command+=("$program" "$@" --data_dir "${DATA_DIR:-${HMMC_DATA:-data}}"
        --output_dir "${OUTPUT_DIR:-ckpts/$name}" ${extra[@]+"${extra[@]}"})
    if [ -n "$dry_run" ]; then
        printf '%q ' "${command[@]}"
        echo
        return
    fi
    # The signals that torchrun hands on to its ranks, which then save. It takes SIGHUP even under nohup.
    local signals=SIGTERM,SIGINT,SIGQUIT,SIGUSR1
    hangup_is_ignored || signals+=,SIGHUP
    export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-$signals}
    exec "${command[@]}"
}
