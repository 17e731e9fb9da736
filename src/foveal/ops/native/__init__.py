"""The compiled kernels of the CPU: C sources, their build, and the way to call them."""
