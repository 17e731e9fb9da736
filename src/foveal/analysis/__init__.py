"""Analyses: what a network costs, what it sees, and pictures of what its layers are."""

from foveal.analysis.cost import Cost, LayerCount, MultiplyAdds, cost, latencies, multiply_adds, paper_counts
from foveal.analysis.draw import (
    draw_bins,
    draw_kernels,
    draw_receptive_field,
    draw_taps,
    draw_winning_scale,
    to_data_uri,
)
from foveal.analysis.feature_maps import draw_feature_maps, feature_maps
from foveal.analysis.receptive_field import ReceptiveField, effective_receptive_field
from foveal.analysis.scales import (
    SharesBySize,
    draw_shares_by_size,
    draw_winning_shares,
    shares_by_size,
    winning_shares,
)

__all__ = [
    "Cost",
    "LayerCount",
    "MultiplyAdds",
    "ReceptiveField",
    "SharesBySize",
    "cost",
    "draw_bins",
    "draw_feature_maps",
    "draw_kernels",
    "draw_receptive_field",
    "draw_shares_by_size",
    "draw_taps",
    "draw_winning_scale",
    "draw_winning_shares",
    "effective_receptive_field",
    "feature_maps",
    "latencies",
    "multiply_adds",
    "paper_counts",
    "shares_by_size",
    "to_data_uri",
    "winning_shares",
]
