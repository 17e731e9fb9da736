"""Log-polar layers in other runtimes, by their forms: onnxruntime and OpenVINO beside foveal's own kernels, interleaved.

Run it: python benchmarks/runtimes.py --json docs/results/runtimes.json
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from foveal import LogPolarConv2d, export
from foveal.bench.table import environment
from foveal.deploy import open_file

CASES = {
    "9x9, 13 columns, 4x64x32x32": ((4, 64, 32, 32), {"kernel_size": 9, "radial_bins": 2, "angular_bins": 6, "growth_rate": 3.0}),
    "31x31, 25 columns, 2x64x56x56": ((2, 64, 56, 56), {"kernel_size": 31, "radial_bins": 3, "angular_bins": 8, "growth_rate": 2.0}),
}  # fmt: skip
TURNS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    file = parser.parse_args().json
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, (shape, setting) in CASES.items():
        layer = LogPolarConv2d(shape[1], shape[1], **setting).eval()
        input = torch.randn(shape)
        with tempfile.TemporaryDirectory() as folder:
            ways = {"foveal in PyTorch": layer}
            for to, runtime, suffix in (("onnx", "onnxruntime", ".onnx"), ("openvino", "OpenVINO", ".xml")):
                for form in ("dense", "sums"):
                    done = export(layer, input, f"{folder}/{to}_{form}{suffix}", to=to, form=form, dynamic=())
                    ways[f"{runtime}, {form}"] = open_file(done.path, threads=1).run
            times = {way: [] for way in ways}
            with torch.no_grad():
                for turn in range(TURNS + 1):  # the first warms up
                    for way, run in ways.items():
                        start = time.perf_counter()
                        run(input)
                        if turn:
                            times[way].append((time.perf_counter() - start) * 1e3)
        rows.append(
            {"layer": name, "ms": {way: statistics.median(taken) for way, taken in times.items()}, "all_ms": times}
        )
        print("| " + " | ".join([name, *(f"{ms:.3g}" for ms in rows[-1]["ms"].values())]) + " |", flush=True)
    file.write_text(json.dumps({"environment": environment(1), "turns": TURNS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
