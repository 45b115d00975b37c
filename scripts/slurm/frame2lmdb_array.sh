#!/usr/bin/env bash
# Write a frame store with many machines: each task of the array stores its part of the videos in a shard of its own,
# and readers take the folder as one store. After a failure start the same command again: stored videos are kept.
#
#   sbatch --array=0-15 scripts/slurm/frame2lmdb_array.sh VIDEO_DIR STORE [flags of tools/frame2lmdb.py]
#
# The number of tasks in the array must stay the same for one store.
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
  echo "usage: sbatch --array=0-15 $0 VIDEO_DIR STORE [flags of tools/frame2lmdb.py]" >&2
  exit 2
fi
video_dir=$1 store=$2
shift 2

# SLURM runs a copy of this script, so that the checkout is where sbatch was called.
cd "${SLURM_SUBMIT_DIR:-.}"
exec python tools/frame2lmdb.py --video_dir "$video_dir" --lmdb_path "$store" \
  --num_workers "${SLURM_CPUS_PER_TASK:-$(nproc)}" "$@"
