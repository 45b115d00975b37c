#!/usr/bin/env bash
# Fine-tune on MSR-VTT with token-wise interaction (DRL's WTI) and a temporal transformer, ViT-B/32.
# Flags of DRL's script "Weighted Token-wise Interaction", whose figures are the published ones. DRL's loss of channels
# (CDCR) is not here; the published row is that without it.
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${drl[@]}" --dataset msrvtt --language english --head wti --head_padding published \
    --use_temp --frame_sample uniform --select_on test
