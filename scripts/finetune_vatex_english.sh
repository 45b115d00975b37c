#!/usr/bin/env bash
# Fine-tune on VATEX English from CLIP, without pre-training on video.
# Inferred from the published MSR-VTT command and VATEX evaluation command (docs/REPRODUCE.md).
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${finetune[@]}" --dataset vatex --language english --text_lr 1e-7 --top_frames 3
