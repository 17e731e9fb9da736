"""Call deformable convolutions with offsets that are not finite, each in a process of its own: does it live?

    python benchmarks/odd_offsets.py docs/results/odd_offsets.json

torchvision's `deform_conv2d` beside ours, on the CPU, one offset of a 3x3 convolution on 9x9 pixels. A process that a signal ends
crashed, whatever Python would have done about an error.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import torch

from foveal.training.environment import environment

CALL = """
import torch
{function}
offset = torch.zeros(1, 18, 9, 9)
offset[0, 0, 4, 4] = float("{value}")
found = convolve(torch.ones(1, 2, 9, 9), torch.ones(3, 2, 3, 3), offset)
print(int(found.isfinite().sum()))
"""
FUNCTIONS = {
    "torchvision.ops.deform_conv2d": """
from torchvision.ops import deform_conv2d
def convolve(input, weight, offset):
    return deform_conv2d(input, offset, weight, padding=1)
""",
    "foveal.ops.anisotropic_conv2d": """
from foveal.ops import anisotropic_conv2d
def convolve(input, weight, offset):
    return anisotropic_conv2d(input, weight, offset)
""",
}
VALUES = ("nan", "inf", "-inf", "1e30")


def measure():
    rows = []
    for name, function in FUNCTIONS.items():
        for value in VALUES:
            code = CALL.format(function=function, value=value)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            ended = "returned" if done.returncode == 0 else "error"
            if done.returncode < 0:
                ended = signal.Signals(-done.returncode).name
            finite = int(done.stdout) if done.returncode == 0 else None
            rows.append({"function": name, "offset": value, "ended": ended, "finite_outputs": finite})
    import torchvision

    about = environment(torch.device("cpu")) | {"torchvision": torchvision.__version__}
    kept = {key: value for key, value in about.items() if key not in ("command", "time")}
    return {"command": "python benchmarks/odd_offsets.py", "environment": kept, "outputs": 243, "rows": rows}


if __name__ == "__main__":
    content = measure()
    Path(sys.argv[1]).write_text(json.dumps(content, indent=1) + "\n")
    for row in content["rows"]:
        print(f"{row['function']:30} offset {row['offset']:5} {row['ended']}")
