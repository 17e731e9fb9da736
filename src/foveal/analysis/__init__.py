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
from foveal.analysis.receptive_field import ReceptiveField, effective_receptive_field

__all__ = [
    "Cost",
    "LayerCount",
    "MultiplyAdds",
    "ReceptiveField",
    "cost",
    "draw_bins",
    "draw_kernels",
    "draw_receptive_field",
    "draw_taps",
    "draw_winning_scale",
    "effective_receptive_field",
    "latencies",
    "multiply_adds",
    "paper_counts",
    "to_data_uri",
]
