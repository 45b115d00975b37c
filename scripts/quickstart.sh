#!/usr/bin/env bash
# From nothing to a table of results in minutes: set up, make the toy data, write its frame stores, pre-train,
# fine-tune with and without the pre-trained weights, evaluate.
# Usage: bash scripts/quickstart.sh [--short] [--full]
#   --short  a few clips and one epoch: shows that every step runs (continuous integration)
#   --full   also fine-tunes without --use_temp and without --use_frame_fea (the README's table)
# OUT=folder chooses where everything goes (default: runs/quickstart).
set -euo pipefail
cd "$(dirname "$0")/.."

size=default pretrain_epochs=6 epochs=12 full=
for argument in "$@"; do
    case $argument in
        --short) size=tiny pretrain_epochs=1 epochs=1 ;;
        --full) full=yes ;;
        *) echo "quickstart.sh: unknown argument $argument; --short and --full are known" >&2; exit 2 ;;
    esac
done
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
out=${OUT:-runs/quickstart}
data=$out/data
started=$SECONDS
step() { echo; echo "== $* ($((SECONDS - started)) s)"; }

mkdir -p "$out"
step "toy data"
python tools/make_toy_dataset.py --out "$data" --size "$size" --only msrvtt chvtt --overwrite
step "frame stores"
store() { python tools/frame2lmdb.py --num_workers 2 --overwrite "$@"; }
store --video_dir "$data/msrvtt/videos" --lmdb_path "$data/msrvtt/msrvtt_lmdb"
store --video_dir "$data/chvtt/videos" --lmdb_path "$data/chvtt/videoinfo_lmdb" --num_frames 48 \
    --json_path "$data/chvtt/videoinfo_videos.jsonl"

model=(--clip_model toy --clip_weights none --language english --data_dir "$data" --max_frames 8 --top_frames 3)
rates=(--lr 5e-4 --text_lr 5e-4 --coef_lr 1 --num_thread_reader 2 --n_display 10 --batch_size_val 128)
finetune() {  # finetune NAME FLAGS...
    local name=$1
    shift
    step "fine-tuning: $name"
    rm -rf "${out:?}/$name"
    python main_task_retrieval.py --do_train --dataset msrvtt --output_dir "$out/$name" "${model[@]}" "${rates[@]}" \
        --epochs "$epochs" --batch_size "$batch" --frame_sample uniform_random "$@"
}
batch=64 queue=512
[ "$size" = tiny ] && batch=8 queue=32
both=(--use_temp --use_frame_fea)

step "untrained"
rm -rf "$out/untrained"
python main_task_retrieval.py --do_eval --dataset msrvtt --output_dir "$out/untrained" "${model[@]}" "${both[@]}"
step "pre-training"
rm -rf "$out/pretrain"
python main_pretrain.py --do_pretrain --dataset chvtt --output_dir "$out/pretrain" "${model[@]}" "${rates[@]}" \
    "${both[@]}" --epochs "$pretrain_epochs" --batch_size "$batch" --contrast_num_negative "$queue" \
    --frame_sample uniform_random
finetune scratch "${both[@]}"
finetune pretrained "${both[@]}" --init_model "$out/pretrain/pytorch_model.bin.$((pretrain_epochs - 1))"
rows=("untrained=$out/untrained" "pre-trained, zero-shot=$out/pretrain" "fine-tuned from scratch=$out/scratch"
    "fine-tuned after pre-training=$out/pretrained")
if [ -n "$full" ]; then
    finetune no_temp --use_frame_fea
    finetune no_frame_fea --use_temp
    rows+=("from scratch, without --use_temp=$out/no_temp" "from scratch, without --use_frame_fea=$out/no_frame_fea")
fi
step "results on the toy MSR-VTT test set"
python tools/collect_results.py --epoch last --own "${rows[@]}"
echo
echo "quickstart: $((SECONDS - started)) s after the installation"
