"""Binned convolution: a kernel whose weights are shared over the bins of a fixed map."""
