#!/usr/bin/env bash
# Fine-tune on VATEX Chinese from the model pre-trained on CHVTT in Chinese.
# Inferred from the published MSR-VTT command and VATEX evaluation command (docs/REPRODUCE.md).
source "$(dirname "$0")/common.sh" "$@"
start_from pretrain_chvtt_chinese 10
launch main_task_retrieval.py "${finetune[@]}" --dataset vatex --language chinese --text_lr 3e-5 --top_frames 3 \
    --init_model "$init_model"
