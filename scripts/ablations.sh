#!/usr/bin/env bash
# Run the method's ablations on the toy data and print a table; the paper's ablation results are not public.
# Usage: bash scripts/ablations.sh [--real] [-- FLAGS...]
#   --real     print the commands for the real data instead
#   -- FLAGS   more flags for every run, e.g. -- --epochs 4 (default: 2)
# DATA_DIR (default runs/quickstart/data; made if it does not exist) and OUT (default runs/ablations).
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
    "" | --real | --) ;;
    *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' scripts/ablations.sh; [ "$1" = --help ] && exit 0 || exit 2 ;;
esac
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
export OMP_WAIT_POLICY=passive # threads that spin while they wait slow down a small machine
data=${DATA_DIR:-runs/quickstart/data}
if [ "${1:-}" != --real ]; then
    [ -d "$data" ] || python tools/make_toy_dataset.py --out "$data"
    for store in "msrvtt msrvtt_lmdb videos.jsonl" "chvtt videoinfo_lmdb videoinfo_videos.jsonl"; do
        read -r dataset lmdb list <<< "$store"
        # Ends at once if the store is complete, and continues one that was stopped.
        python tools/frame2lmdb.py --video_dir "$data/$dataset/videos" \
            --lmdb_path "$data/$dataset/$lmdb" --json_path "$data/$dataset/$list" --num_frames 12
    done
fi
exec python tools/run_ablations.py --data_dir "$data" --out "${OUT:-runs/ablations}" "$@"
