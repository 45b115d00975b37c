#!/usr/bin/env bash
# Fine-tune on VATEX (English) with token-wise interaction and a temporal transformer, ViT-B/16.
# We have not run it, and know no published figure for these flags.
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${drl[@]}" --dataset vatex --language english --clip_model ViT-B-16-quickgelu \
    --head wti --use_temp --frame_sample uniform_random --mask_duplicates
