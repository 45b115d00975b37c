#!/usr/bin/env bash
# Zero-shot on MSR-VTT (1k-A) with the model pre-trained on CHVTT in English.
source "$(dirname "$0")/common.sh" "$@"
default_nproc=1
start_from pretrain_chvtt_english 2
launch main_task_retrieval.py "${evaluate[@]}" --dataset msrvtt --language english --top_frames 3 \
    --init_model "$init_model"
