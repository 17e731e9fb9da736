"""Whatever looks at a network leaves each of its modules in its mode, after an error too."""

import pytest
import torch
from torch import nn

from foveal import analysis
from foveal.training import evaluate


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("in the middle")


LOOKS = {
    "cost": lambda model: analysis.cost(model, (3, 8, 8), latency=False),
    "latencies": lambda model: analysis.latencies([model], (3, 8, 8)),
    "paper_counts": lambda model: analysis.paper_counts(model, (3, 8, 8)),
    "effective_receptive_field": lambda model: analysis.effective_receptive_field(model, (3, 8, 8)),
    "class_activation_map": lambda model: analysis.class_activation_map(model, torch.zeros(1, 3, 8, 8)),
    "grad_cam": lambda model: analysis.grad_cam(model, torch.zeros(1, 3, 8, 8), "0"),
    "feature_maps": lambda model: analysis.feature_maps(model, torch.zeros(1, 3, 8, 8), ["0"]),
    "evaluate": lambda model: evaluate(model, None, None, batch_size=2, task=Task()),
}


class Task:
    """As much of a task as an evaluation needs before the network fails."""

    def batches(self, *_, **__):
        yield torch.zeros(2, 3, 8, 8), torch.zeros(2)

    def forward(self, model, inputs, targets):
        return model(inputs)


@pytest.mark.parametrize("look", LOOKS)
def test_modes_come_back_after_an_error(look):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval(), nn.Dropout(), Fails())
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="in the middle"):
        LOOKS[look](model)
    assert [module.training for module in model.modules()] == before


def test_map_layers_brings_modes_back_and_tells_what_it_saw():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Fails())
    assert analysis.map_layers(model, (3, 8, 8)) == ["0"]
    assert model.training
