"""Analyses: what a network costs, what it sees, and pictures of what its layers are."""

from foveal.analysis import counters
from foveal.analysis.boxes import draw_boxes
from foveal.analysis.cam import RULES, cam_box, class_activation_map, grad_cam, heat
from foveal.analysis.card import save, to_data_uri
from foveal.analysis.cost import Cost, LayerCount, MultiplyAdds, cost, latencies, multiply_adds, paper_counts
from foveal.analysis.draw import (
    draw_bins,
    draw_kernels,
    draw_local_fields,
    draw_receptive_field,
    draw_taps,
    draw_winning_scale,
)
from foveal.analysis.draw_activation import draw_activation_maps
from foveal.analysis.draw_fields import (
    draw_bins_on_image,
    draw_correlation,
    draw_field_growth,
    draw_pooled,
    draw_weight_spread,
)
from foveal.analysis.evaluating import evaluating
from foveal.analysis.explorer import explorer
from foveal.analysis.feature_maps import draw_feature_maps, feature_maps
from foveal.analysis.localisation import (
    LocalisationError,
    box_overlap,
    choose_threshold,
    localisation_error,
)
from foveal.analysis.receptive_field import (
    FieldGrowth,
    ReceptiveField,
    effective_receptive_field,
    field_growth,
    map_layers,
)
from foveal.analysis.scales import (
    SharesBySize,
    draw_shares_by_size,
    draw_winning_shares,
    shares_by_size,
    winning_shares,
)
from foveal.analysis.statistics import BinCorrelation, WeightSpread, bin_correlation, weight_spread

__all__ = [
    "RULES",
    "BinCorrelation",
    "Cost",
    "FieldGrowth",
    "LayerCount",
    "LocalisationError",
    "MultiplyAdds",
    "ReceptiveField",
    "SharesBySize",
    "WeightSpread",
    "bin_correlation",
    "box_overlap",
    "cam_box",
    "choose_threshold",
    "class_activation_map",
    "cost",
    "counters",
    "draw_activation_maps",
    "draw_bins",
    "draw_bins_on_image",
    "draw_boxes",
    "draw_correlation",
    "draw_feature_maps",
    "draw_field_growth",
    "draw_kernels",
    "draw_local_fields",
    "draw_pooled",
    "draw_receptive_field",
    "draw_shares_by_size",
    "draw_taps",
    "draw_weight_spread",
    "draw_winning_scale",
    "draw_winning_shares",
    "effective_receptive_field",
    "evaluating",
    "explorer",
    "feature_maps",
    "field_growth",
    "grad_cam",
    "heat",
    "latencies",
    "localisation_error",
    "map_layers",
    "multiply_adds",
    "paper_counts",
    "save",
    "shares_by_size",
    "to_data_uri",
    "weight_spread",
    "winning_shares",
]
