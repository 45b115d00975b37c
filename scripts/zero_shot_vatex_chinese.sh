#!/usr/bin/env bash
# Zero-shot on VATEX Chinese with the model pre-trained on CHVTT in Chinese.
source "$(dirname "$0")/common.sh" "$@"
default_nproc=1
start_from pretrain_chvtt_chinese 10
launch main_task_retrieval.py "${evaluate[@]}" --dataset vatex --language chinese --top_frames 3 \
    --init_model "$init_model"
