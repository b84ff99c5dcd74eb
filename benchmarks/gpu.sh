#!/usr/bin/env bash
# Fifteen minutes of a GPU, used well. Three steps, each of which goes on where it was stopped:
#
#   bash benchmarks/gpu.sh prepare CORPUS/*.txt.xz   here: one small file of tokens, and what to carry there
#   bash benchmarks/gpu.sh run                       there: tests, speed, pretraining, each within its own minutes
#   bash benchmarks/gpu.sh harvest FOLDER            here: numbers, figures, and the new model beside the old one
#
# `bash benchmarks/gpu.sh STEP --help` lists what each takes. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
