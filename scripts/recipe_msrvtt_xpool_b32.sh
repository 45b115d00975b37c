#!/usr/bin/env bash
# Fine-tune on MSR-VTT with text-conditioned pooling (X-Pool), ViT-B/32.
# Learning rates and batch of X-Pool's README; 1e-6 for both towers. Its code evaluates ten times an epoch and reports
# the best; this one evaluates once an epoch.
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${drl[@]}" --dataset msrvtt --language english --head xpool --batch_size 32 --lr 3e-5 \
    --coef_lr 0.03333 --text_lr 1e-6 --frame_sample uniform --select_on test
