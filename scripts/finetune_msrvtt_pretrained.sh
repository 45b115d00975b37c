#!/usr/bin/env bash
# Fine-tune on MSR-VTT (9k training videos, 1k-A test) from the model pre-trained on CHVTT in English.
# Published flags.
source "$(dirname "$0")/common.sh" "$@"
start_from pretrain_chvtt_english 2
launch main_task_retrieval.py "${finetune[@]}" --dataset msrvtt --language english --text_lr 1e-7 --top_frames 2 \
    --init_model "$init_model"
