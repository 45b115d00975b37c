#!/usr/bin/env bash
# Write a frame store with many machines: each task of the array stores its part of the videos in a shard of its own,
# and readers take the folder as one store. After a failure start the same command again: stored videos are kept.
#
#   sbatch --array=0-15 scripts/slurm/frame2lmdb_array.sh VIDEO_DIR STORE [flags of tools/frame2lmdb.py]
#
# The number of tasks in the array must stay the same for one store. PYTHON is that of scripts/common.sh.
#SBATCH --job-name=frame2lmdb
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --output=frame2lmdb-%A_%a.log
set -euo pipefail

if [[ $# -lt 2 || -z "${SLURM_ARRAY_TASK_ID:-}" ]]; then
    echo "usage: sbatch --array=0-15 scripts/slurm/frame2lmdb_array.sh VIDEO_DIR STORE [flags of tools/frame2lmdb.py]" >&2
    exit 2
fi
video_dir=$1 store=$2
shift 2

# Slurm runs a copy of this script, so that the checkout is where sbatch was called, or what --chdir says.
[ -f tools/frame2lmdb.py ] || cd "${SLURM_SUBMIT_DIR:-.}"
if [ ! -f tools/frame2lmdb.py ]; then
    echo "frame2lmdb_array.sh: $PWD is not the checkout; call sbatch there, or give sbatch --chdir=CHECKOUT" >&2
    exit 2
fi
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ ! -x .venv/bin/python ] || python=.venv/bin/python
fi
export PATH # `sbatch --export=NAME` leaves it out; bash then has its own, but does not export it
exec "$python" tools/frame2lmdb.py --video_dir "$video_dir" --lmdb_path "$store" \
    --num_workers "${SLURM_CPUS_PER_TASK:-$(nproc)}" "$@"
