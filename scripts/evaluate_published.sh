#!/usr/bin/env bash
# Evaluate one of the three published fine-tuned checkpoints.
# Usage: INIT_MODEL=downloaded/file bash scripts/evaluate_published.sh msrvtt|vatex_english|vatex_chinese
source "$(dirname "$0")/common.sh" "$@"
default_nproc=1
row=${extra[0]:-}
extra=("${extra[@]:1}")
case $row in
    msrvtt) flags=(--dataset msrvtt --language english --top_frames 2) ;;
    vatex_english) flags=(--dataset vatex --language english --top_frames 3) ;;
    # This model was trained with CLIP's special tokens around its texts.
    vatex_chinese) flags=(--dataset vatex --language chinese --top_frames 3 --legacy_special_tokens) ;;
    *) die "'$row': give msrvtt, vatex_english or vatex_chinese" ;;
esac
name+=_$row
init_model=${INIT_MODEL:-}
[ -n "$init_model" ] || die "set INIT_MODEL to the downloaded checkpoint"
[ -n "$dry_run" ] || [ -f "$init_model" ] || die "$init_model: no such file"
launch main_task_retrieval.py "${evaluate[@]}" "${flags[@]}" --init_model "$init_model"
