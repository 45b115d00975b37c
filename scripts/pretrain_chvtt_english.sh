#!/usr/bin/env bash
# Pre-train on CHVTT in English; after each epoch zero-shot evaluation on MSR-VTT.
# Published: loss weights, queue, momentum. Inferred: --text_lr (as in fine-tuning) and --epochs (the published
# fine-tuning starts from the third epoch, pytorch_model.bin.2).
source "$(dirname "$0")/common.sh" "$@"
launch main_pretrain.py "${pretrain[@]}" --language english --text_lr 1e-7 --epochs 3 --n_display 596 \
    --weight_FAM 0 --weight_VTM 0.45 --weight_FTM 0.45 --weight_MLM 0
