"""The explorer: a page in which bins and taps are set by sliders, seen on an image, and copied as a line of Python or of a plan."""

from importlib.resources import files


def explorer() -> str:
    """A page (HTML) to play with log-polar and anisotropic kernels in a browser, whole in itself: no server, nothing loaded.

    Its maths is that of :func:`foveal.geometry.log_polar_bins` and :func:`foveal.geometry.scaled_taps`.

    Example:
        >>> explorer()[:15]
        '<!doctype html>'
    """
    return files("foveal.analysis").joinpath("explorer.html").read_text(encoding="utf-8")
