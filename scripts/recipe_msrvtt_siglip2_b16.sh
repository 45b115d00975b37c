#!/usr/bin/env bash
# Fine-tune on MSR-VTT from SigLIP 2, ViT-B/16, with text-conditioned pooling and the sigmoid loss.
# The loss starts from SigLIP's own scale and bias. X-Pool pools what SigLIP matched in its training, one feature of a
# text and one of a picture; WTI would match single words, which SigLIP did not. We have not run it.
source "$(dirname "$0")/common.sh" "$@"
launch main_task_retrieval.py "${drl[@]}" --dataset msrvtt --language english --clip_model ViT-B-16-SigLIP2 \
    --clip_weights webli --head xpool --loss sigmoid --frame_sample uniform_random --mask_duplicates
