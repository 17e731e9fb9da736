"""How far plans go in timm's zoo: python benchmarks/timm_architectures.py JSON [NAME ...].

In each architecture all 3x3 convolutions become log-polar, then anisotropic ones. It must take a training step that moves every new
layer, reload its state into a fresh conversion to the same bits, and give the same outputs with what is exactly a convolution folded.
"""

import copy
import json
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn

import foveal
from foveal import AnisotropicConv2d, CrossConv2d, LogPolarConv2d, convert, reparameterize
from foveal.training.environment import environment

PLANS = {
    "log_polar": {"layer": "log_polar", "kernel_size": 7, "radial_bins": 2, "angular_bins": 6, "growth_rate": 3.0},
    "anisotropic": {"layer": "anisotropic", "scales": (1, 2)},
}
SIDES = {"inception_v3": 160}  # which overflows on 64 or 96, unconverted, too
ARCHITECTURES = """
    resnet18 resnet26d seresnet18 ecaresnet26t skresnet18 resnest14d res2net50_26w_4s resnetv2_18 resnetv2_50x1_bit nf_resnet26
    nf_regnet_b0 eca_nfnet_l0 dm_nfnet_f0 regnetx_002 regnety_002 regnetz_b16 densenet121 vgg11_bn inception_v3 legacy_xception
    mobilenetv2_035 mobilenetv3_small_050 tf_mobilenetv3_small_075 mobilenetv4_conv_small semnasnet_075 fbnetc_100 fbnetv3_b
    efficientnet_b0 tf_efficientnet_b0 tf_efficientnetv2_b0 efficientnet_lite0 tinynet_e ghostnet_100 lcnet_050 mixnet_s
    tf_mixnet_s rexnet_100 dla34 dpn48b selecsls42 hrnet_w18_small darknet17 cspresnet50 cspdarknet53 gernet_s repvgg_a0
    mobileone_s0 hgnetv2_b0 convnext_atto edgenext_xx_small fastvit_t8 repvit_m0_9 efficientvit_b0 efficientformerv2_s0
    levit_128s mobilevit_xxs vit_small_r26_s32_224 starnet_s1 ese_vovnet19b_slim tresnet_m pvt_v2_b0 poolformer_s12
    coatnet_pico_rw_224 vit_tiny_patch16_224 swin_tiny_patch4_window7_224 mixer_s32_224
"""


def create(name: str) -> nn.Module:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10)
    with torch.no_grad():
        for place, parameter in model.named_parameters():  # branches that start at nothing would hide what lies in them
            if not place.endswith("bias") and not parameter.any():
                parameter.fill_(1)
    return model


def plan_of(model: nn.Module, entry: dict) -> dict[str, dict]:
    """The entry for each 3x3 convolution, by name."""
    return {n: entry for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}


def check(name: str, entry: dict) -> dict[str, object]:
    """What became of one architecture under one entry."""
    model = create(name)
    plan = plan_of(model, entry)
    found: dict[str, object] = {"convolutions": len(plan)}
    if not plan:
        return found | {"outcome": "no 3x3 convolution"}
    kinds = Counter(type(model.get_submodule(place)).__name__ for place in plan)
    found |= {"kinds": dict(kinds), "params_before": sum(p.numel() for p in model.parameters())}
    config = model.default_cfg
    side = config["input_size"][-1] if config.get("fixed_input_size") else SIDES.get(name, 64)
    input, labels = torch.randn(2, 3, side, side), torch.tensor([0, 1])
    with torch.no_grad():
        shape = model.eval()(input).shape
    try:
        convert(model, plan)
    except ValueError as error:
        return found | {"outcome": "refused", "why": str(error)}
    found["params_after"] = sum(p.numel() for p in model.parameters())
    found |= trained(model, plan, input, labels)
    again = convert(create(name), plan).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model.eval()(input)
        found["shape_kept"] = expected.shape == shape
        found["reloaded"] = bool(torch.equal(again(input), expected))
        ours = sum(isinstance(m, LogPolarConv2d | CrossConv2d | AnisotropicConv2d) for m in again.modules())
        folded = reparameterize(copy.deepcopy(model))
        left = sum(isinstance(m, LogPolarConv2d | CrossConv2d | AnisotropicConv2d) for m in folded.modules())
        found |= {"layers": ours, "folded": ours - left}
        found["error_of_folding"] = float((folded(input) - expected).abs().max() / expected.abs().max())
    sound = found["shape_kept"] and found["moved"] and found["reloaded"] and found["error_of_folding"] < 1e-3
    return found | {"outcome": "sound" if sound else "WRONG"}


def trained(model: nn.Module, plan: dict, input: torch.Tensor, labels: torch.Tensor) -> dict[str, object]:
    """One step of training, and whether it moved all that is new."""
    layers = {place: model.get_submodule(place) for place in plan}
    before = {place: [p.clone() for p in layer.parameters()] for place, layer in layers.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.train()
    loss = nn.functional.cross_entropy(model(input), labels)
    loss.backward()
    optimizer.step()
    still = [
        place
        for place, layer in layers.items()
        if not any((p != q).any() for p, q in zip(layer.parameters(), before[place], strict=True))
    ]
    return {"loss": round(loss.item(), 4), "moved": not still, "still": still[:4]}


def main(arguments: list[str]) -> None:
    """Go through the architectures, all or those named; what is in the file already is not done again."""
    import timm

    path, names = Path(arguments[0]), arguments[1:] or ARCHITECTURES.split()
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in names:
        for plan, entry in PLANS.items():
            if any((row["architecture"], row["plan"]) == (name, plan) for row in rows):
                continue
            start = time.perf_counter()
            try:
                found = check(name, entry)
            except Exception as error:  # the next one may be sound
                found = {"outcome": "failed", "why": f"{type(error).__name__}: {error}"}
            rows.append({"architecture": name, "plan": plan, **found, "seconds": round(time.perf_counter() - start, 1)})
            print(*(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            content = {
                "command": "python benchmarks/timm_architectures.py docs/results/timm_architectures.json",
                "environment": environment(torch.device("cpu")) | {"timm": timm.__version__, "foveal": foveal.__version__},
                "plans": PLANS,
                "outcomes": {plan: dict(Counter(r["outcome"] for r in rows if r["plan"] == plan)) for plan in PLANS},
                "rows": rows,
            }  # fmt: skip
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
