#!/usr/bin/env bash
# All measurements and tests that need a GPU, in order of importance, in under 9 minutes on one H100.
# Usage: bash benchmarks/gpu_run.sh FOLDER [--tiny]
#   FOLDER  gets one JSON file and one text file for each part, and summary.txt
#   --tiny  tiny sizes, to try the script where there is no GPU
# LIMIT=530 are the seconds of all parts together; parts for which no time is left are not started. PYTHON is a
# python with the requirements and pytest, default .venv/bin/python if it exists, else python3. Each part has its
# own limit; after a failed one the script goes on, and it ends with code 1. Compare with an earlier run:
# python benchmarks/compare.py OLD/step_finetune.json NEW/step_finetune.json
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
die() { echo "gpu_run.sh: $*" >&2; exit 2; }

folder= tiny=
for argument in "$@"; do
    case $argument in
        --tiny) tiny=yes ;;
        -*) die "unknown argument $argument; give FOLDER [--tiny]" ;;
        *) [ -z "$folder" ] || die "one FOLDER, not $folder and $argument"; folder=$argument ;;
    esac
done
[ -n "$folder" ] || die "give the folder for the results"
mkdir -p "$folder" || die "$folder: cannot be made"
python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python
limit=${LIMIT:-530}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 PYTHONUNBUFFERED=1
if [ -z "$tiny" ]; then
    "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" ||
        die "$python sees no GPU; give --tiny to try the script without one"
fi

if [ -n "$tiny" ]; then
    device=cpu base=tests/modules/tiny_clip.json larger=$base clips=4 large_clips=4 cache=2 scale=0.002
    size=(--frames 2 --steps 2 --warmup 1) few=(--frames 2 --steps 1 --warmup 1)
    encode=(--clips 6 --frames 2)
    run=(--clip_model toy --batch_size 4 --steps 6 --frames 2 --display 2 --workers 1)
    tests=(tests/golden -k english) on=off loader=(--seconds 2 --short_sides 256) startup=(--captions 5000 --rounds 1)
else
    device=cuda base=ViT-B-32-quickgelu larger="ViT-B-16-quickgelu ViT-L-14-quickgelu" clips=128 large_clips=32
    cache=64 scale=1 size=(--steps 20 --warmup 6) few=(--steps 6 --warmup 3) encode=(--clips 4000)
    run=(--batch_size 256 --steps 60) on=on
    tests=(-n 8 -v --maxfail 15 --tb=short tests/golden tests/modules tests/engine) loader=(--seconds 15) startup=(--rounds 1)
fi

started=$SECONDS
failed=() skipped=()
: > "$folder/summary.txt"
say() { echo "$*" | tee -a "$folder/summary.txt"; }

part() {  # part NAME SECONDS COMMAND...: its output goes to FOLDER/NAME.txt
    local name=$1 most=$2 left=$((limit - (SECONDS - started))) before=$SECONDS code
    shift 2
    if [ "$left" -lt 15 ]; then
        skipped+=("$name")
        return
    fi
    [ "$most" -le "$left" ] || most=$left
    echo "== $name (at most $most s)"
    timeout -k 5 "$most" "$@" > "$folder/$name.txt" 2>&1
    code=$?
    grep -E '^\||passed|failed' "$folder/$name.txt" | tail -12
    if [ "$code" = 0 ]; then
        say "$name: $((SECONDS - before)) s"
    else
        failed+=("$name")
        say "$name: FAILED with code $code after $((SECONDS - before)) s: $(tail -1 "$folder/$name.txt")"
    fi
}

measure() {  # measure NAME SECONDS PROGRAM FLAGS...: its figures go to FOLDER/NAME.json
    local name=$1 most=$2 program=$3
    shift 3
    if [ -f "benchmarks/$program" ]; then
        part "$name" "$most" "$python" "benchmarks/$program" --json "$folder/$name.json" "$@"
    else
        skipped+=("$name")
    fi
}

measure step_finetune 100 train_step.py --clip_model "$base" --clips $clips --precision auto --compile off $on "${size[@]}"
measure baseline_step 70 baseline_step.py --clip_model "$base" --compile $on --clips $clips "${few[@]}"
part tests 150 "$python" -m pytest -p no:cacheprovider --device $device "${tests[@]}"
measure evaluate 80 evaluate.py --clip_model "$base" --precision auto --scale $scale "${encode[@]}"
# shellcheck disable=SC2086  # several names
measure step_larger 90 train_step.py --clip_model $larger --clips $large_clips --compile $on "${few[@]}"
measure step_pretrain 60 train_step.py --pretrain --clip_model "$base" --clips $clips --compile $on "${size[@]}"
measure end_to_end 90 end_to_end.py "${run[@]}"
measure loader 60 loader.py "${loader[@]}"
measure startup 50 startup.py "${startup[@]}"
measure step_precisions 50 train_step.py --clip_model "$base" --clips $clips --precision fp32 tf32 fp16 "${few[@]}"
measure profile 40 train_step.py --clip_model "$base" --clips $clips --profile "$folder/profile" "${few[@]}"
measure tiles 30 evaluate.py --clips 0 --scale 0.02 --tile 0 512
measure step_memory 40 train_step.py --clip_model "$base" --clips $clips --grad_checkpointing --grad_cache $cache "${few[@]}"

say "all parts: $((SECONDS - started)) s; results in $folder"
[ ${#skipped[@]} = 0 ] || say "not started (no time, or no such program): ${skipped[*]}"
if [ ${#failed[@]} != 0 ]; then
    say "FAILED: ${failed[*]}"
    exit 1
fi
