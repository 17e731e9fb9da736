"""Sampled convolution: a kernel whose taps are points, which may move with the position."""
