#!/usr/bin/env bash
# Pre-train on many nodes: a row of the published tables (default pretrain_chvtt_chinese) with more flags.
#
#   sbatch --nodes=4 scripts/slurm/pretrain.sh [pretrain_chvtt_english] [FLAGS...]
#   OUTPUT_DIR=/shared/run1 DATA_DIR=/shared/data sbatch --nodes=8 scripts/slurm/pretrain.sh --batch_size 1024
#
# Submit it from the checkout, on a file system that all nodes see. Three minutes before the time limit, and when Slurm
# takes the nodes for another job, every rank gets a signal: the run saves, ends, returns to the queue, and continues
# at its next start. On a cluster without GPUs give sbatch --gpus-per-node=0. More in docs/MULTINODE.md.
#SBATCH --job-name=hmmc-pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=10
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=hmmc-pretrain-%j.log
# Slurm runs a copy of this script, so that the checkout is where sbatch was called, or what --chdir says.
[ -f scripts/slurm/job.sh ] || cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
if [ ! -f scripts/slurm/job.sh ]; then
    echo "pretrain.sh: $PWD is not the checkout; call sbatch there, or give sbatch --chdir=CHECKOUT" >&2
    exit 2
fi
# shellcheck source=scripts/slurm/job.sh
source scripts/slurm/job.sh
row=pretrain_chvtt_chinese
if [[ ${1:--} != -* ]]; then
    row=$1
    shift
fi
run_job "$row" "$@"
