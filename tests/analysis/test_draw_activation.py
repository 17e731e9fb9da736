"""Pictures of activation maps: panels, boxes around their pixels, and what is refused."""

import pytest
import torch

from foveal.analysis import draw_activation_maps, to_data_uri


def parts(sizes=((8, 10), (6, 6)), names=("a", "b")):
    images = [torch.rand(3, *size) for size in sizes]
    heats = {name: [torch.rand(*size) for size in sizes] for name in names}
    boxes = {name: [torch.tensor([1, 2, 4, 5])] * len(sizes) for name in names}
    return images, heats, boxes


def test_a_row_for_each_image_and_a_column_for_each_network():
    images, heats, boxes = parts()
    truths = [torch.tensor([[0.0, 0.0, 3.0, 3.0]]), torch.zeros(0, 4)]
    notes = {"a": ["cat", "dog"], "b": ["cat", "cow"]}
    figure = draw_activation_maps(images, heats, boxes, truths=truths, notes=notes, title="Maps")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "a\ncat", "b\ncat", "", "dog", "cow"]
    assert "dashed: the true one" in figure.get_supxlabel()
    framed = [[patch.get_bbox().bounds for patch in axes.patches] for axes in figure.axes]
    assert framed[0] == [(-0.5, -0.5, 4.0, 4.0)] * 2  # the truth alone; each frame is drawn twice
    assert framed[1] == [(0.5, 1.5, 4.0, 4.0)] * 2 + [(-0.5, -0.5, 4.0, 4.0)] * 2
    assert framed[4] == [(0.5, 1.5, 4.0, 4.0)] * 2
    assert to_data_uri(figure, "png").startswith("data:image/png")


def test_the_map_lies_over_the_image():
    images, heats, boxes = parts(names=("a",))
    figure = draw_activation_maps(images, heats, boxes)
    backdrop, shown = (one.get_array() for one in figure.axes[1].images)
    assert backdrop.shape == (8, 10)
    assert torch.equal(torch.from_numpy(shown.data), heats["a"][0])
    assert "dashed" not in figure.get_supxlabel()


def test_what_does_not_fit_is_refused():
    images, heats, boxes = parts()
    with pytest.raises(ValueError, match="an image and a network; got 0 and 2"):
        draw_activation_maps([], heats, boxes)
    with pytest.raises(ValueError, match="2 maps and 1 boxes of a for 2 images"):
        draw_activation_maps(images, heats, {**boxes, "a": boxes["a"][:1]})
    with pytest.raises(ValueError, match=r"size of its image .* \(6, 6\) for \(3, 8, 10\)"):
        draw_activation_maps(images, {"a": heats["a"][::-1]}, boxes)
