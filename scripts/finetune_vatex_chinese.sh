#!/usr/bin/env bash
# Fine-tune on VATEX Chinese from CLIP's image tower and the Chinese encoder, without pre-training on video.
# Inferred from the published MSR-VTT command and VATEX evaluation command (docs/REPRODUCE.md).
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${finetune[@]}" --dataset vatex --language chinese --text_lr 3e-5 --top_frames 3
