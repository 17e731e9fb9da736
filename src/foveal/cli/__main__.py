"""The command line as `python -m foveal.cli`, the name that came first."""

import runpy

if __name__ == "__main__":
    runpy.run_module("foveal", run_name="__main__", alter_sys=True)
