"""What the ops cost beside PyTorch's own and other libraries': measured in turn in one run, each figure beside its bar."""

from foveal.bench.cpu import run
from foveal.bench.gpu import run_gpu
from foveal.bench.table import print_table, write

__all__ = ["print_table", "run", "run_gpu", "write"]
