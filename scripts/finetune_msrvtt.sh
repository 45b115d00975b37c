#!/usr/bin/env bash
# Fine-tune on MSR-VTT (9k training videos, 1k-A test) from CLIP, without pre-training on video.
# Published flags without --init_model.
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${finetune[@]}" --dataset msrvtt --language english --text_lr 1e-7 --top_frames 2
