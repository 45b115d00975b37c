#!/usr/bin/env bash
# Fine-tune on MSR-VTT with mean pooling of the frames (CLIP4Clip), ViT-B/32.
# Flags of DRL's script "Dot Product Interaction", whose figures are the published ones.
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${drl[@]}" --dataset msrvtt --language english --head mean --frame_sample uniform \
    --select_on test
