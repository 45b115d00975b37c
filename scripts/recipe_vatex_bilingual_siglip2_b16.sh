#!/usr/bin/env bash
# Fine-tune on VATEX in both languages from SigLIP 2, ViT-B/16: one model for English and Chinese texts.
# The head and the loss are those of recipe_msrvtt_siglip2_b16.sh. We have not run it.
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${drl[@]}" --dataset vatex --language bilingual --clip_model ViT-B-16-SigLIP2 \
    --clip_weights webli --head xpool --loss sigmoid --frame_sample uniform_random --mask_duplicates
