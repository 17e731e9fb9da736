"""The maps that shape a field: bins (tap -> shared weight) for tied kernels, taps (points) for those that may move."""

from foveal.geometry.checks import plain
from foveal.geometry.log_polar import (
    CENTERS,
    SUPPORTS,
    LogPolarMap,
    MapArguments,
    bin_population,
    log_polar_bins,
    offset_bins,
    region_grid,
    squared_limits,
)
from foveal.geometry.shapes import cross_bins, hexagon_bins, peripheral_bins, ring_bins
from foveal.geometry.taps import grid_taps, pinwheel_taps, scaled_taps, snake_offsets, snake_taps

__all__ = [
    "CENTERS",
    "SUPPORTS",
    "LogPolarMap",
    "MapArguments",
    "bin_population",
    "cross_bins",
    "grid_taps",
    "hexagon_bins",
    "log_polar_bins",
    "offset_bins",
    "peripheral_bins",
    "pinwheel_taps",
    "plain",
    "region_grid",
    "ring_bins",
    "scaled_taps",
    "snake_offsets",
    "snake_taps",
    "squared_limits",
]
