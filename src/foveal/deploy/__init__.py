"""From trained to deployed: batch normalisation folded away, and files for other runtimes that are checked before they are done."""

from foveal.deploy.fold import Folding, fold

__all__ = ["Folding", "fold"]
