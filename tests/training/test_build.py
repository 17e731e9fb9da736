"""Networks as recipes state them: a function of the seed, alike where plans do not touch them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveal.recipes.schema import Model
from foveal.training.build import build_network, learned_scales, mix

HOW: dict[str, Any] = {"num_classes": 4, "in_channels": 1}
PLAN = {"conv3": {"layer": "log_polar", "kernel_size": 5}}


def test_weights_are_a_function_of_the_seed_and_of_the_plan_where_it_is() -> None:
    state = torch.get_rng_state()
    model = Model(name="small_cnn")
    plain, again = (build_network(model, {}, **HOW).state_dict() for _ in range(2))
    other = build_network(model, {}, **HOW, seed=1).state_dict()
    converted = build_network(model, PLAN, **HOW).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert not torch.equal(plain["conv1.weight"], other["conv1.weight"])
    kept = [name for name in plain if not name.startswith("conv3")]
    assert len(kept) >= 10
    assert all(torch.equal(plain[name], converted[name]) for name in kept)
    assert converted["conv3.weight"].shape != plain["conv3.weight"].shape


def test_the_data_decides_classes_and_channels() -> None:
    with pytest.raises(ValueError, match=r"model\.num_classes is 10, and the data has 4 classes: leave it out"):
        build_network(Model.model_validate({"name": "small_cnn", "num_classes": 10}), {}, **HOW)


def test_layers_with_learned_scales() -> None:
    plan = {"conv3": {"layer": "anisotropic", "scales": "learned"}}
    network = build_network(Model(name="small_cnn"), plan, **HOW)
    assert learned_scales(network) == [network.conv3]
    assert learned_scales(build_network(Model(name="small_cnn"), PLAN, **HOW)) == []


def test_seeds_of_purposes_lie_apart() -> None:
    seeds = [mix(seed, purpose) for seed in range(20) for purpose in ("model", "convert", "step 1", "step 2")]
    assert len(set(seeds)) == 80
    assert all(0 <= seed < 2**32 for seed in seeds)
