"""What tasks that give a map of an image share: sets with masks, their batches, predictions of any size, pictures."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import JointPreset, MaskSet, Truth, create_mask_dataset, decode, joint_batches, scaled
from foveal.data.own import OwnSet
from foveal.data.section import Data
from foveal.tasks.inference import all_views, by_windows
from foveal.tasks.masks import draw_cases, overlay, save_mask, save_picture, to_image, write_probabilities
from foveal.tasks.task import Opened, Task, kept_images, name_of, one_each

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOFT = 1.0  # added above and below in the soft Dice coefficient
_AUGMENTATIONS = ("crop", "scale", "flip", "flip_vertical", "quarter_turns", "affine", "aspect", "colour")
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_NORMALISED: dict[str, dict[str, Any]] = {
    "voc": _IMAGENET,
    "voc_aug": _IMAGENET,
    "drive": {"mean": (0.5,) * 3, "std": (0.3125,) * 3},  # value / 255 * 3.2 - 1.6, as CE-Net's
}


@dataclass(frozen=True, kw_only=True)
class MaskTask(Task):
    """A map for each image, judged against a mask.

    Args:
        views: 8 averages over an image turned and mirrored while evaluating.
        window: side of sliding windows while evaluating; None takes images whole.
    """

    views: int = 1
    window: int | None = None

    takes = (
        *("data.size", "data.resize", "data.binary_masks"),
        *(f"data.augment.{key}" for key in _AUGMENTATIONS),
    )
    options = ("views", "window", "probabilities")
    drawn = "Best and worst images"
    binary: ClassVar[bool] = False
    """Whether masks are of an object and the rest, in black and white."""

    def __post_init__(self) -> None:
        if self.views not in (1, 8):
            raise ValueError(f"views must be 1 or 8; got {self.views!r}")
        window = self.window
        if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 8):
            raise ValueError(f"window must be a whole number of pixels from 8, or null; got {window!r}")

    @property
    def evaluates_whole_images(self) -> bool:
        """Against masks of their own size."""
        return True

    @abstractmethod
    def probabilities(self, scores: Tensor) -> Tensor:
        """Of a network's float scores Tensor[B, K, H, W]."""

    @abstractmethod
    def masks(self, outputs: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The classes that an evaluation's outputs stand for, int64 Tensor[H, W] for each image at its own size."""

    def load(self, data: Data, split: str, root: str | None) -> tuple[MaskSet | OwnSet, JointPreset]:
        """One split of a set of images with masks."""
        dataset = create_mask_dataset(data.name, split, root, binary=self.binary or data.binary_masks)
        kept = kept_images(data, len(dataset))
        return dataset if kept is None else dataset.subset(kept), self.preparation(data)

    def preparation(self, data: Data) -> JointPreset:
        """How images are prepared."""
        said = data.augment.model_dump(include={*_AUGMENTATIONS}) | {"size": data.size, "resize": data.resize}
        said = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        return JointPreset(**_NORMALISED.get(data.name, {}), **said, whole=self.evaluates_whole_images)

    def batches(
        self,
        dataset: MaskSet | OwnSet,
        preparation: JointPreset,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        train: bool,
        device: str | torch.device,
        workers: int,
        start_batch: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> Iterable[tuple[Tensor, list[Truth]]]:
        """One epoch of images float32 Tensor[B, C, H, W] and what is true of each."""
        how: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "epoch": epoch, "train": train}
        how |= {"device": device, "workers": workers, "start_batch": start_batch, "drop_last": drop_last}
        how |= {"rank": rank, "world": world}
        return joint_batches(dataset, preparation, **how)

    def forward(self, network: nn.Module, inputs: Tensor, targets: list[Truth]) -> Any:
        """Scores while training, of an evaluation what `evaluated` gives; Tensor[B, K, H, W], or a dict with it as ``out``.

        A network that gives several maps while it is trained, as W-Net does, is judged by each; the first is its result.
        """
        return network(inputs) if network.training else self.evaluated(network, inputs)

    def evaluated(self, network: nn.Module, images: Tensor) -> Tensor:
        """Probabilities Tensor[B, K, H, W], by windows and from all views where the task says so."""

        def whole(seen: Tensor) -> Tensor:
            return self.probabilities(maps_of(network(seen)).float())

        def one_view(seen: Tensor) -> Tensor:
            return whole(seen) if self.window is None else by_windows(seen, self.window, whole)

        return one_view(images) if self.views == 1 else all_views(images, one_view)

    def shares_of(self, outputs: Tensor) -> Tensor:
        """The probabilities that an evaluation's outputs stand for."""
        return outputs

    def prepare(
        self, image: Tensor, data: Data, *, in_channels: int, size: tuple[int, int] | None, device: torch.device
    ) -> Tensor:
        """float32 Tensor[1, 3, H, W], scaled by `data.resize` and normalised."""
        prepared = self.preparation(data)
        shift, spread = (torch.tensor(v, device=device).mul(255)[:, None, None] for v in (prepared.mean, prepared.std))
        return scaled(image, prepared.resize).to(device).float().sub_(shift).div_(spread)[None]

    def predict(self, trained: Opened, files: Sequence[Path], out: Path, **options: Any) -> Iterator[tuple[Any, ...]]:
        """``<name>_mask.png`` and ``<name>_overlay.png`` at the image's own size, and its probabilities on request."""
        with_probabilities = options.pop("probabilities", False)
        task = dataclasses.replace(self, **options)
        files = one_each(files)
        out.mkdir(parents=True, exist_ok=True)
        for path in files:
            pixels = decode(path)
            with torch.no_grad():
                outputs = task.evaluated(trained.network, trained.preprocess(pixels))
            mask = task.masks(outputs, [pixels.shape[-2:]])[0].cpu()
            written = [out / f"{path.stem}_mask.png", out / f"{path.stem}_overlay.png"]
            save_mask(mask, self.binary, written[0])
            save_picture(overlay(pixels, mask, self.binary), written[1])
            if with_probabilities:
                written += write_probabilities(self.shares_of(outputs), mask, trained.classes, out / path.stem)
            yield path, *written

    def draw(
        self, network: nn.Module, dataset: MaskSet | OwnSet, preparation: JointPreset
    ) -> Iterator[tuple[Figure, str]]:
        """The images on which the network is best and worst."""
        yield best_and_worst(network, self, dataset, preparation)


def maps_of(outputs: Any) -> Tensor:
    """The maps that a network gives: a tensor, or ``out`` of a dict, as torchvision's networks give it.

    Raises:
        ValueError: it gives something else.
    """
    maps = outputs.get("out") if isinstance(outputs, Mapping) else outputs
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        got = f"shape {list(maps.shape)}" if isinstance(maps, Tensor) else type(outputs).__name__
        raise ValueError(
            "segmentation needs maps of scores [N, classes, H, W], as a tensor or as 'out' of a dict; the network gives "
            f"{got}. Networks that do: deeplabv3plus_mobilenetv2, unet, torchvision's deeplabv3_resnet50, fcn_resnet50"
        )
    return maps


def alone(part: Tensor) -> Tensor:
    """The sum of a tensor over all processes, where there is one."""
    return part


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Tensor[N, K, H, W] scaled bilinearly, or as it is where it has the size."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, list(size), mode="bilinear", align_corners=False)


@torch.no_grad()
def best_and_worst(
    model: nn.Module,
    task: MaskTask,
    dataset: MaskSet | OwnSet,
    preset: JointPreset,
    *,
    most: int = 32,
    extremes: int = 2,
) -> tuple[Figure, str]:
    """Measure a network image by image, and draw the best and the worst, the best first.

    Args:
        model: in eval mode; on the CPU.
        task: images are sorted by its headline.
        dataset: its test images.
        preset: how they are prepared.
        most: images to look at.
        extremes: how many of the best, and of the worst, are drawn.

    Returns:
        The figure, and a sentence about it.

    Raises:
        ValueError: the headline is defined for none of the images.
    """
    metric, binary = task.metrics[0], task.binary
    seen: list[tuple[float, str, Tensor, Tensor, Tensor]] = []
    stream = task.batches(dataset, preset, batch_size=1, seed=0, epoch=0, train=False, device="cpu", workers=0)
    for number, (images, truths) in enumerate(stream, 1):
        outputs = task.forward(model, images, truths)
        value = task.summary(task.count(outputs, truths, train=False))[metric.name]
        if value is not None:
            mask = truths[0].mask
            image = scaled(to_image(images[0], preset.mean, preset.std), (mask.shape[0], mask.shape[1]))
            caption = f"{name_of(dataset, number - 1)}: {metric.title} {metric.text(value)}"
            seen.append((value, caption, image, mask, task.masks(outputs, [mask.shape])[0]))
        if number == most:
            break
    if not seen:
        raise ValueError(f"{metric.title} is not defined for any of the images")
    seen.sort(key=lambda case: case[0], reverse=metric.higher_is_better)
    some = seen if len(seen) <= 2 * extremes else seen[:extremes] + seen[-extremes:]
    text = f"The best and the worst of {len(seen)} test images by {metric.title}, the best first"
    return draw_cases([case[1:] for case in some], binary=binary), text
