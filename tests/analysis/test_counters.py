"""The counters that others use say what ``cost`` says of foveal's layers."""

import pytest
import torch
from torch import nn

from foveal import convert
from foveal.analysis import cost, counters
from foveal.models import create_model

SIZE = (3, 24, 20)
NETWORKS = {
    "plain": {},
    "log_polar": {"*": {"layer": "log_polar", "kernel_size": 9}},
    "strided": {"conv2": {"layer": "log_polar", "kernel_size": 7, "groups": 4, "stride": 2, "dilation": 2}},
    "cross": {"*": {"layer": "cross"}},
    "anisotropic": {"*": {"layer": "anisotropic", "scales": (1, 2, 3)}},
    "concat": {"*": {"layer": "anisotropic", "fuse": "concat"}},
    "learned": {
        "conv1": {"layer": "anisotropic", "scales": "learned"},
        "conv3": {"layer": "log_polar", "kernel_size": 5},
    },
    "max": {"*": {"layer": "log_polar", "kernel_size": 5, "reduce": "max"}},
}


OF_CONVOLUTIONS = {"strided": {"conv2": {"layer": "conv", "stride": 2}}}  # with maps of the same sizes


def built(plan):
    model = create_model("small_cnn")
    return (convert(model, plan) if plan else model).eval()


@pytest.mark.filterwarnings("ignore")  # it scripts functions as it is imported, and traces
@pytest.mark.parametrize("name", NETWORKS)
def test_fvcore(name):
    network = built(NETWORKS[name])
    fvcore = pytest.importorskip("fvcore.nn", reason="fvcore is not installed")
    counted = fvcore.FlopCountAnalysis(network, torch.zeros(1, *SIZE)).unsupported_ops_warnings(False)
    counted.uncalled_modules_warnings(False).set_op_handle(**counters.fvcore_handles())
    assert counted.by_operator()["conv"] == cost(network, SIZE, latency=False).conv_macs


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_fvcore_counts_other_convolutions_as_before():
    fvcore = pytest.importorskip("fvcore.nn", reason="fvcore is not installed")
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ConvTranspose2d(6, 4, 3, stride=2))
    plain, told = (fvcore.FlopCountAnalysis(model, torch.zeros(2, *SIZE)) for _ in range(2))
    assert told.set_op_handle(**counters.fvcore_handles()).total() == plain.total()


def through_ptflops(model):
    ptflops = pytest.importorskip("ptflops", reason="ptflops is not installed")
    how = {"backend": "pytorch", "as_strings": False, "print_per_layer_stat": False, "verbose": False}
    hooks = counters.ptflops_hooks(model)
    return ptflops.get_model_complexity_info(model, SIZE, custom_modules_hooks=hooks, **how)[0]


def through_thop(model):
    thop = pytest.importorskip("thop", reason="thop is not installed")
    return thop.profile(model, (torch.zeros(1, *SIZE),), custom_ops=counters.thop_hooks(model), verbose=False)[0]


@pytest.mark.parametrize("count", [through_ptflops, through_thop])
@pytest.mark.parametrize("name", NETWORKS)
def test_counters_of_modules(name, count):
    """They count normalisation and the like besides: that of a network of plain convolutions is taken off."""
    network, plain = built(NETWORKS[name]), built(OF_CONVOLUTIONS.get(name))
    besides = count(plain) - cost(plain, SIZE, latency=False).macs
    assert count(network) - besides == cost(network, SIZE, latency=False).macs


@pytest.mark.parametrize("count", [through_ptflops, through_thop])
@pytest.mark.parametrize("layer", ["conv", "log_polar", "cross", "anisotropic"])
def test_standardised_convolutions(layer, count, timm):
    network = nn.Sequential(timm.layers.ScaledStdConv2d(3, 8, 3), timm.layers.ScaledStdConv2dSame(8, 8, 3))
    convert(network, {"*": {"layer": layer, **({"kernel_size": 5} if layer == "log_polar" else {})}}).eval()
    assert count(network) == cost(network, SIZE, latency=False).macs > 0
