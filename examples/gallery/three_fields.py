"""What a CNN, a vision transformer and a hybrid of both see: effective receptive fields side by side."""

import timm

from foveal.analysis import draw_receptive_field, effective_receptive_field

NETWORKS = {
    "CNN: resnet18": ("resnet18", "layer3"),
    "transformer: vit_tiny": ("vit_tiny_patch16_224", "blocks.2"),
    "hybrid: mobilevit_xs": ("mobilevit_xs", "stages.3"),
}


def run(quick=False):
    size = 224  # what the transformer was made for
    fields = []
    for title, (name, layer) in list(NETWORKS.items())[: 1 if quick else 3]:
        how = (
            {"zero_init_last": False} if name.startswith("resnet") else {}
        )  # else its branches start at zero, and see nothing
        network = timm.create_model(name, **how).eval()  # random weights: what the layers can reach
        field = effective_receptive_field(network, (3, size, size), layer=layer, activations="identity")
        fields.append(field)
        print(
            f"{title:22} after {layer:8} sees {field.size[0]} x {field.size[1]} pixels, 95 % of it in {field.side} x {field.side}, stride {field.stride[0]:g}"
        )
    return draw_receptive_field(fields, labels=list(NETWORKS)[: len(fields)], columns=3)
