"""Numbers from tensors: what networks are judged by."""
