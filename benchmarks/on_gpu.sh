#!/usr/bin/env bash
# One command for a machine with a CUDA card: prove the GPU kernels, measure them, try tiles, train; each part with a limit of its own,
# each result written as it comes. benchmarks/on_gpu.py holds the parts and the options:
#
#   benchmarks/on_gpu.sh [--parts smoke,tests,bench,tiles,speed,train] [--minutes N] [--rehearse] [--out DIR] [--data DIR]
#
# It needs Python 3.11 or later with torch 2.11 and its triton, torchvision 0.26, numpy, safetensors, pyyaml, typer, rich, torchmetrics,
# matplotlib, jinja2, timm, pytest, pytest-xdist and hypothesis. What a machine without a network lacks of that, and these four, may lie as
# wheels in .whl/ of the checkout; they go to a temporary folder:
#
#   pydantic 2.14.4   pydantic-core 2.50.5   annotated-types 0.8.0   typing-inspection 0.4.5   typing-extensions 4.16.0   mlxtend 0.25.0
#
# The package is used from src/. The CPU kernels are built there with the C compiler of the machine, where it has one and they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
if compgen -G '.whl/*.whl' >/dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ ! -e src/foveal/ops/native/_kernels.so ]; then
  python3 setup.py -q build_ext --build-lib build/lib && cp build/lib/foveal/ops/native/_kernels.so src/foveal/ops/native/ || true
fi
python3 benchmarks/on_gpu.py "$@"
