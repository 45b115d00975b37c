#!/usr/bin/env bash
# Fine-tune on VATEX (English) with token-wise interaction and a temporal transformer, ViT-L/14.
# We have not run it, and know no published figure for these flags.
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${drl[@]}" --dataset vatex --language english --clip_model ViT-L-14-quickgelu \
    --head wti --use_temp --frame_sample uniform_random --mask_duplicates --grad_checkpointing
