#!/usr/bin/env bash
# A complete run on toy data in minutes: set up, make the toy data, write its frame stores, pre-train,
# fine-tune on few labelled videos with and without the pre-trained weights, train one model for English and
# Chinese, evaluate.
# Usage: bash scripts/quickstart.sh [--short] [--full]
#   --short  a few clips and one epoch: shows that every step runs (continuous integration)
#   --full   also fine-tunes on all labelled videos, with and without the pre-trained weights, --use_temp and
#            --use_frame_fea (benchmarks/results/quickstart.md)
# OUT=folder chooses where everything goes (default: runs/quickstart).
set -euo pipefail
cd "$(dirname "$0")/.."

size=default pretrain_epochs=3 epochs=6 few_epochs=40 few=40 both_epochs=2 batch=32 queue=512 full=
for argument in "$@"; do
    case $argument in
        --short) size=tiny pretrain_epochs=1 epochs=1 few_epochs=1 few=6 both_epochs=1 batch=4 queue=32 ;;
        --full) full=yes ;;
        *) echo "quickstart.sh: unknown argument $argument; give --short or --full" >&2; exit 2 ;;
    esac
done
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
export OMP_WAIT_POLICY=passive # threads that spin while they wait slow down a small machine
out=${OUT:-runs/quickstart}
data=$out/data
started=$SECONDS
step() { echo; echo "== $* ($((SECONDS - started)) s)"; }

mkdir -p "$out"
step "toy data"
python tools/make_toy_dataset.py --out "$data" --size "$size" --overwrite
step "frame stores"
store() {  # store DATASET STORE LIST FRAMES
    python tools/frame2lmdb.py --video_dir "$data/$1/videos" --lmdb_path "$data/$1/$2" \
        --json_path "$data/$1/$3" --num_frames "$4" --num_workers 2 --overwrite
}
store msrvtt msrvtt_lmdb videos.jsonl 12
store vatex vatex_lmdb videos.jsonl 12

both=(--use_temp --use_frame_fea)
model=(--clip_model toy --clip_weights none --temporal_layers 2 --data_dir "$data" --language english
    --max_frames 6 --max_words 24 --top_frames 3 --batch_size_val 128)
training=(--lr 2.5e-3 --text_lr 2.5e-3 --coef_lr 1 --batch_size "$batch" --frame_sample uniform_random
    --num_thread_reader 2 --n_display 50)
finetune() {  # finetune NAME EPOCHS FLAGS...
    local name=$1 epochs=$2
    shift 2
    step "fine-tuning: $name"
    rm -rf "${out:?}/$name"
    python main_task_retrieval.py --do_train --dataset msrvtt --output_dir "$out/$name" "${model[@]}" \
        "${training[@]}" --epochs "$epochs" "$@"
}
# The head of the list and the first videos; sed reads all of it, which head would not.
sed -n "1,$((few + 1))p" "$data/msrvtt/MSRVTT_train.9k.csv" > "$data/msrvtt/first_$few.csv"
labelled=(--train_list "$data/msrvtt/first_$few.csv")

step "untrained"
rm -rf "${out:?}/untrained"
python main_task_retrieval.py --do_eval --dataset msrvtt --output_dir "$out/untrained" "${model[@]}" "${both[@]}"
# On VATEX: CHVTT's augmentation crops and mirrors every frame independently, which hides how things move.
step "pre-training"
rm -rf "${out:?}/pretrain"
python main_pretrain.py --do_pretrain --dataset vatex --output_dir "$out/pretrain" "${model[@]}" "${training[@]}" \
    "${both[@]}" --epochs "$pretrain_epochs" --contrast_num_negative "$queue" --weight_FAM 0 --weight_MLM 0
weights=(--init_model "$out/pretrain/pytorch_model.bin.$((pretrain_epochs - 1))")
finetune few_scratch "$few_epochs" "${both[@]}" "${labelled[@]}"
finetune few_pretrained "$few_epochs" "${both[@]}" "${labelled[@]}" "${weights[@]}"
step "one model for English and Chinese"
rm -rf "${out:?}/bilingual"
python main_task_retrieval.py --do_train --dataset vatex --output_dir "$out/bilingual" "${model[@]}" "${training[@]}" \
    "${both[@]}" --language bilingual --pretrained_text "$data/toy-bert" --text_lr 4e-4 --mask_duplicates --epochs "$both_epochs"
rows=("untrained=$out/untrained" "pre-trained, zero-shot=$out/pretrain" "$few labelled videos, from scratch=$out/few_scratch"
    "$few labelled videos, after pre-training=$out/few_pretrained"
    "one model for two languages, VATEX=$out/bilingual")
if [ -n "$full" ]; then
    finetune scratch "$epochs" "${both[@]}"
    finetune pretrained "$epochs" "${both[@]}" "${weights[@]}"
    finetune no_temp "$epochs" --use_frame_fea
    finetune no_frame_fea "$epochs" --use_temp
    rows+=("all labelled videos, from scratch=$out/scratch" "all labelled videos, after pre-training=$out/pretrained"
        "all, from scratch, without --use_temp=$out/no_temp" "all, from scratch, without --use_frame_fea=$out/no_frame_fea")
fi
step "results on the toy MSR-VTT test set, of the last row on VATEX's; last epoch"
own=()
for row in "${rows[@]}"; do own+=(--own "$row"); done
python tools/collect_results.py --epoch last "${own[@]}"
echo
echo "quickstart: $((SECONDS - started)) s after the installation"
