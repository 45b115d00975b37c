#!/usr/bin/env bash
# Fine-tune on VATEX English from the model pre-trained on CHVTT in English.
# Inferred from the published MSR-VTT command and VATEX evaluation command (docs/REPRODUCE.md).
source "$(dirname "$0")/common.sh" "$@"
start_from pretrain_chvtt_english 2
launch main_task_retrieval.py "${finetune[@]}" --dataset vatex --language english --text_lr 1e-7 --top_frames 3 \
    --init_model "$init_model"
