"""Build the CPU kernels: one shared library with plain C functions, each source compiled per instruction set.

Without a C compiler, or with one that fails, the package installs all the same and runs on plain PyTorch.
"""

import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/foveal/ops/native")
SOURCES = ["binned.c", "sampled.c", "sampled_volumes.c"]
# name, floats a vector, flags; the first is for every machine
SETS = [("base", 4, [])]
if platform.machine().lower() in ("x86_64", "amd64"):
    AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mprefer-vector-width=512"]
    SETS += [
        ("avx2", 8, ["-mavx2", "-mfma"]),
        ("avx512", 16, AVX512),
        ("amx", 16, [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-DTILES"]),
    ]
FLAGS = ["-std=c11", "-O3", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]


class BuildKernels(build_ext):
    """Compile every source for every instruction set, and link them into one library."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            print(
                f"foveal: the CPU kernels were not compiled ({error}); everything works, on plain PyTorch, but slower"
            )

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "")) or getattr(self.compiler, "compiler_so", ["cc"])[:1]
        with tempfile.TemporaryDirectory() as folder:
            objects = [f"{folder}/dispatch.o"]
            shared = [*compiler, *FLAGS, "-DISA=base", "-DLANES=4"]
            subprocess.run([*shared, "-c", NATIVE / "dispatch.c", "-o", objects[0]], check=True)
            for name, lanes, flags in SETS:
                made = []
                try:
                    for source in SOURCES:
                        made.append(f"{folder}/{source}.{name}.o")
                        command = [*compiler, *FLAGS, *flags, f"-DISA={name}", f"-DLANES={lanes}"]
                        subprocess.run([*command, "-c", NATIVE / source, "-o", made[-1]], check=True)
                except subprocess.CalledProcessError:
                    if name == "base":
                        raise
                    print(f"foveal: this compiler does not know {name}; that set is left out")
                    continue
                objects += made
            subprocess.run([*compiler, "-shared", *objects, "-o", target], check=True)


class Wheel(bdist_wheel):
    """One wheel for every Python: the library has no Python in it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("foveal.ops.native._kernels", sources=[f"{NATIVE}/{s}" for s in (*SOURCES, "dispatch.c")])],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
