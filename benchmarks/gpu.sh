#!/usr/bin/env bash
# A GPU session of fifteen minutes, in three steps, each of which continues where it was stopped:
#
#   bash benchmarks/gpu.sh prepare CORPUS/*.txt.xz   here: write a small file of tokens, and list the files to carry there
#   bash benchmarks/gpu.sh run                       there: tests, speed, pretraining, each within a time limit
#   bash benchmarks/gpu.sh harvest FOLDER            here: store numbers and figures, evaluate the new model beside the old one
#
# `bash benchmarks/gpu.sh STEP --help` lists its arguments. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
