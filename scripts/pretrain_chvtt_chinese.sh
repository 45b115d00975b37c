#!/usr/bin/env bash
# Pre-train on CHVTT in Chinese; after each epoch zero-shot evaluation on VATEX Chinese.
# Published flags; the published run seems to have used a tenth of CHVTT (docs/REPRODUCE.md).
source "$(dirname "$0")/common.sh" "$@"
launch main_pretrain.py "${pretrain[@]}" --language chinese --text_lr 1e-4 --epochs 11 --n_display 596
