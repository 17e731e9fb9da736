"""Batches: a pure function of seed, epoch and index, against a loop over single images; and that it looks random."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data import FolderSet, ImageSet, Preset, batches, create_dataset, loader
from foveal.data.hashing import random_below, random_bits
from foveal.data.loader import _CUT_COLUMN, _CUT_ROW, _DOWN, _FLIP, _RIGHT, _centred

PLAIN = Preset(mean=(0.0,), std=(1 / 255,))  # pixels come out as they are stored
FULL = Preset(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), pad=2, flip=True, cutout=3)


def numbered(n: int, channels: int = 3, height: int = 6, width: int = 8) -> ImageSet:
    """Random images whose label is their index."""
    images = torch.randint(0, 256, (n, channels, height, width), generator=torch.Generator().manual_seed(n))
    return ImageSet("numbered", "train", images.byte(), torch.arange(n), tuple(map(str, range(n))))


def positions(n: int) -> ImageSet:
    """Equal 15x15 images whose pixel values, 1 to 225, tell where they come from; padding stays 0."""
    image = torch.arange(1, 226, dtype=torch.uint8).reshape(1, 1, 15, 15)
    return ImageSet("positions", "train", image.repeat(n, 1, 1, 1), torch.arange(n), tuple(map(str, range(n))))


def run(dataset, preset=FULL, *, batch_size=16, seed=0, epoch=0, train=True, **kwargs):
    return list(batches(dataset, batch_size=batch_size, seed=seed, epoch=epoch, train=train, preset=preset, **kwargs))


def by_index(found):
    images, labels = torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])
    return images[labels.argsort()], labels


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


def chi_square(counts):
    expected = counts.sum() / counts.numel()
    return ((counts - expected) ** 2 / expected).sum().item()


def limit(cells):
    return cells - 1 + 5 * (2 * (cells - 1)) ** 0.5


@pytest.fixture
def folder(tmp_path):
    """26 images of different sizes in two classes."""
    rng = np.random.default_rng(0)
    for i in range(26):
        path = tmp_path / "train" / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10 + i % 3, 12 + i % 5, 3), dtype=np.uint8)).save(path)
    return create_dataset("folder", "train", tmp_path)


# --- what comes out ---


def test_evaluation_is_the_set_in_its_order():
    dataset = numbered(37)
    found = run(dataset, train=False)
    assert [len(y) for _, y in found] == [16, 16, 5]
    images, labels = torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(labels, dataset.labels)
    mean, std = (torch.tensor(v)[:, None, None] for v in (FULL.mean, FULL.std))
    torch.testing.assert_close(images, (dataset.images / 255 - mean) / std)


@pytest.mark.parametrize(
    ("pad", "flip", "cutout"),
    [
        (2, True, 3),
        (0, False, 0),
        (2, False, 0),
        (9, False, 0),
        (0, True, 0),
        (0, False, 1),
        (0, False, 4),
        (1, True, 20),
    ],
)
def test_training_against_a_loop_over_single_images(pad, flip, cutout):
    dataset, seed, epoch = numbered(50), 3, 5
    preset = Preset(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), pad=pad, flip=flip, cutout=cutout)
    images, _ = by_index(run(dataset, preset, seed=seed, epoch=epoch, batch_size=7))
    for i in range(50):

        def draw(purpose, n, i=i):
            return random_below(random_bits(seed, epoch, purpose, i), n).item()

        image = torch.nn.functional.pad(dataset.images[i].double() / 255, (pad,) * 4)
        top, left = draw(_DOWN, 2 * pad + 1), draw(_RIGHT, 2 * pad + 1)
        image = image[:, top : top + 6, left : left + 8]
        if flip and draw(_FLIP, 2):
            image = image.flip(-1)
        image = (image - torch.tensor(preset.mean)[:, None, None]) / torch.tensor(preset.std)[:, None, None]
        row, column = draw(_CUT_ROW, 6) - cutout // 2, draw(_CUT_COLUMN, 8) - cutout // 2
        image[:, max(row, 0) : max(row + cutout, 0), max(column, 0) : max(column + cutout, 0)] = 0
        torch.testing.assert_close(images[i].double(), image, rtol=1e-6, atol=1e-6)


def test_one_channel_and_one_number_for_all_channels():
    for channels in (1, 3, 4):
        images, _ = run(numbered(8, channels), Preset(pad=1, flip=True))[0]
        assert images.shape == (8, channels, 6, 8)
        assert images.min() >= -1
        assert images.max() <= 1


# --- a pure function ---


def test_same_bits_again_and_again():
    epoch = batches(numbered(50), batch_size=16, seed=1, epoch=2, train=True, preset=FULL)
    assert equal(list(epoch), list(epoch))


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"seed": 2**63 - 1}])
def test_seed_and_epoch_change_order_and_augmentation(change):
    dataset = numbered(200)
    first, second = by_index(run(dataset)), by_index(run(dataset, **change))
    assert not torch.equal(first[1], second[1])
    assert (first[0] != second[0]).flatten(1).any(1).float().mean() > 0.9


def test_augmentation_does_not_depend_on_the_batch():
    dataset = numbered(100)
    reference = by_index(run(dataset, batch_size=100))
    for batch_size in (1, 7, 64, 1000):
        images, labels = by_index(run(dataset, batch_size=batch_size))
        assert torch.equal(images, reference[0])
        assert torch.equal(labels, reference[1])


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_starting_in_the_middle(train, drop_last):
    dataset = numbered(50)
    whole = run(dataset, train=train, drop_last=drop_last)
    assert [len(y) for _, y in whole] == [16, 16, 16] + [2] * (not drop_last)
    for start in range(len(whole) + 1):
        rest = batches(
            dataset, batch_size=16, seed=0, epoch=0, train=train, preset=FULL, drop_last=drop_last, start_batch=start
        )
        assert len(rest) == len(whole) - start
        assert equal(list(rest), whole[start:])


def test_no_random_state_is_read_or_moved(folder):
    torch.manual_seed(0)
    random.seed(0)
    before = torch.get_rng_state(), random.getstate()
    for dataset in (numbered(20), folder):
        first = run(dataset, Preset(size=(8, 8), pad=1, flip=True, cutout=2))
        torch.manual_seed(0)
        assert equal(first, run(dataset, Preset(size=(8, 8), pad=1, flip=True, cutout=2)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_workers_give_the_same_bits(folder):
    preset = Preset(size=(9, 9), pad=2, flip=True, cutout=3)
    reference = run(folder, preset, batch_size=4)
    assert len(reference) == 7
    assert {y.item() for _, labels in reference for y in labels} == {0, 1}
    for workers in (1, 2):
        assert equal(run(folder, preset, batch_size=4, workers=workers), reference)
    assert equal(run(folder, preset, batch_size=4, workers=2, start_batch=5), reference[5:])


def test_files_and_memory_give_the_same_bits(folder):
    preset = Preset(size=(9, 9), pad=2, flip=True, cutout=3)
    images = torch.cat([_centred(Preset(size=(9, 9)), image[None], 0) for image, _ in folder])
    in_memory = ImageSet("copy", "train", images, folder.labels, folder.classes)
    assert isinstance(folder, FolderSet)
    assert equal(run(folder, preset), run(in_memory, preset))


@pytest.mark.parametrize(("together", "counts"), [(0, [7] * 7 + [1]), (2, [14, 14, 14, 8]), (9, [50])])
def test_batches_that_are_prepared_together_have_the_same_bits(monkeypatch, together, counts):
    dataset, preset = numbered(50), Preset(pad=2, flip=True, cutout=3)
    reference = run(dataset, preset, batch_size=7)
    sizes = []
    normalise = loader._normalise
    monkeypatch.setattr(loader, "_normalise", lambda x, *more: (sizes.append(len(x)), normalise(x, *more))[1])
    monkeypatch.setattr(loader, "_PREPARED_TOGETHER", {"cpu": together * 7 * dataset.images[0].numel()})
    assert equal(run(dataset, preset, batch_size=7), reference)
    assert sizes == counts
    assert equal(run(dataset, preset, batch_size=7, start_batch=3), reference[3:])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_the_gpu():
    dataset = numbered(50)
    for (a, b), (c, d) in zip(run(dataset), run(dataset.to("cuda"), device="cuda"), strict=True):
        assert c.is_cuda
        assert d.is_cuda
        torch.testing.assert_close(c.cpu(), a, rtol=1e-6, atol=1e-6)
        assert torch.equal(d.cpu(), b)


# --- it looks random ---


def test_orders_are_permutations_without_pattern():
    n = 1000
    orders = torch.stack([by_index(run(positions(n), PLAIN, epoch=e, batch_size=n))[1] for e in range(10)])
    assert torch.equal(orders.sort(dim=1).values, torch.arange(n).expand(10, n))
    assert chi_square(torch.bincount(orders[:, :100].flatten() // 100, minlength=10)) < limit(10)
    assert (orders[:, 1:] == orders[:, :-1] + 1).sum() < 30  # about one neighbour an epoch by chance
    for i in range(1, 10):
        assert (orders[0] == orders[i]).sum() < 10


def test_crops_and_flips_are_uniform():
    n, pad = 16_200, 4
    images, _ = by_index(run(positions(n), Preset(mean=(0.0,), std=(1 / 255,), pad=pad, flip=True), batch_size=n))
    images = images[:, 0].round().long()
    middle = images[:, 7, 7] - 1  # the middle pixel of the crop is inside the image for every shift
    down, right = middle // 15 - 7, middle % 15 - 7
    flipped = images[:, 7, 8] < images[:, 7, 7]
    cells = ((down + pad) * 9 + right + pad) * 2 + flipped
    counts = torch.bincount(cells, minlength=162)
    assert counts.numel() == 162
    assert chi_square(counts) < limit(162)


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_squares_are_uniform(side):
    n = 11_250
    images, _ = by_index(run(positions(n), Preset(mean=(0.0,), std=(1 / 255,), cutout=side), batch_size=n))
    hole = images[:, 0] == 0
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])
    inner = hole[:, side:-side, side:-side].any(-1).any(-1)
    assert (hole[inner].sum((1, 2)) <= side**2).all()
    assert hole.sum((1, 2)).max() == side**2
    if side == 1:
        assert chi_square(torch.bincount(hole.flatten(1).int().argmax(1), minlength=225)) < limit(225)
    else:  # a square whose centre is near the border is cut off there
        expected = sum(min(c - side // 2 + side, 15) - max(c - side // 2, 0) for c in range(15)) / 15
        assert abs(rows.sum(1).float().mean().item() - expected) < 0.05


# --- size ---


def fit(images, size, **fields):
    return _centred(Preset(size=size, **fields), images, 0)


def test_the_centre_is_kept():
    images = torch.randint(0, 256, (2, 3, 10, 20), generator=torch.Generator().manual_seed(0)).byte()
    assert fit(images, None) is images
    assert torch.equal(fit(images, (10, 20)), images)
    assert torch.equal(fit(images, (10, 10)), images[..., 5:15])
    assert torch.equal(fit(images, (6, 20)), images[:, :, 2:8])
    scaled = torch.nn.functional.interpolate(images.double(), (5, 10), mode="bilinear", antialias=True)
    assert (fit(images, (5, 5)).double() - scaled[..., 2:7]).abs().max() <= 1
    for size in ((1, 1), (7, 3), (3, 7), (33, 21), (20, 10)):
        assert fit(images, size).shape == (2, 3, *size)
        assert fit(torch.full_like(images, 77), size).eq(77).all()


@pytest.mark.parametrize(("height", "width"), [(37, 53), (53, 37), (40, 40), (200, 33)])
def test_resize_and_centre_crop_are_torchvision_s(torchvision, height, width):
    from torchvision.transforms import v2

    image = torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()
    for resize, size in ((32, (28, 28)), ((48, 40), (30, 36))):
        expected = v2.functional.resize(image, [resize] if isinstance(resize, int) else list(resize), antialias=True)
        assert torch.equal(fit(image, None, resize=resize), expected)
        cropped = v2.functional.center_crop(expected, size)
        if (expected.shape[-2] - size[0]) % 2 == (expected.shape[-1] - size[1]) % 2 == 0:
            assert torch.equal(fit(image, size, resize=resize), cropped)


def placed(n, height=12, width=16):
    """Images whose pixels say where they are, red the row and green the column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, torch.zeros_like(rows)]).byte()
    return ImageSet("placed", "train", image.expand(n, -1, -1, -1), torch.arange(n), tuple(map(str, range(n))))


def test_random_crops_are_uniform():
    n = 6000
    images, _ = by_index(
        run(placed(n), Preset((0.0,), (1 / 255,), (9, 12), resize=(12, 16), crop="random"), batch_size=n)
    )
    corner = images[:, :2, 0, 0].long()
    cells = corner[:, 0] * 5 + corner[:, 1]
    assert corner.amax(0).tolist() == [3, 4]
    assert chi_square(torch.bincount(cells, minlength=20)) < limit(20)
    assert (images[:, :2, 1, 1] - images[:, :2, 0, 0]).eq(1).all(), "a crop is cut out, not scaled"


def test_random_resized_crops_are_torchvision_s(torchvision):
    preset = Preset((0.0,), (1 / 255,), (8, 8), crop="random_resized")
    images, _ = by_index(run(placed(400, 64, 48), preset, batch_size=50))
    tall, wide = (images[:, k].amax((1, 2)) - images[:, k].amin((1, 2)) for k in (0, 1))
    share = (tall * 8 / 7) * (wide * 8 / 7) / (64 * 48)
    assert images.shape == (400, 3, 8, 8)
    assert 0.05 < share.quantile(0.02) < 0.2
    assert 0.4 < share.mean() < 0.65
    assert share.max() > 0.85
    again, _ = by_index(run(placed(400, 64, 48), preset, batch_size=400))
    other, _ = by_index(run(placed(400, 64, 48), preset, epoch=1, batch_size=400))
    assert torch.equal(images, again)
    assert (images == other).flatten(1).all(1).sum() < 4
    flat, _ = by_index(run(placed(4, 64, 48), preset, train=False))
    assert torch.equal(flat, flat[:1].expand_as(flat)), "testing has no chance in it"


@pytest.mark.parametrize("crop", ["random", "random_resized"])
def test_cropped_files_are_the_same_for_any_workers(folder, crop):
    preset = Preset(size=(9, 9), resize=12, crop=crop, flip=True)
    state = torch.get_rng_state()
    reference = run(folder, preset, batch_size=4)
    assert torch.equal(torch.get_rng_state(), state)
    for workers in (1, 2):
        assert equal(run(folder, preset, batch_size=4, workers=workers), reference)
    assert equal(run(folder, preset, batch_size=4, workers=2, start_batch=3), reference[3:])
    assert not equal(run(folder, preset, batch_size=4, epoch=1), reference)


def test_sets_in_memory_are_brought_to_the_size_too():
    images, _ = run(numbered(8, 1, 28, 28), Preset(size=(32, 32)))[0]
    assert images.shape == (8, 1, 32, 32)


# --- wrong arguments ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1; got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0; got -1"),
        ({"seed": 2**63}, "seed must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"epoch": True}, "epoch must be a whole number"),
        ({"workers": -1}, "workers must be a whole number"),
        ({"start_batch": -1}, "start_batch must be a whole number"),
        ({"start_batch": 5}, "start_batch must be at most 4, the number of batches; got 5"),
        ({"start_batch": 4, "drop_last": True}, "start_batch must be at most 3"),
        ({"batch_size": 51, "drop_last": True}, "batch_size must be at most 50, the size of the set, with drop_last"),
        ({"preset": Preset(mean=(0.1, 0.2), std=(1.0, 1.0))}, "mean and std must have 1 or 3 numbers .* got 2"),
    ],
)
def test_wrong_arguments(change, message):
    usual = {"batch_size": 16, "seed": 0, "epoch": 0, "train": True, "preset": FULL}
    with pytest.raises(ValueError, match=message):
        batches(numbered(50), **{**usual, **change})


@pytest.mark.parametrize("workers", [0, 1])
def test_files_of_different_sizes_need_a_size(folder, workers):
    with pytest.raises(ValueError, match="size must be set in the preset where images differ in height or width"):
        run(folder, Preset(), workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_is_named(folder, workers):
    folder.paths[3].write_bytes(b"not an image")
    with pytest.raises(ValueError, match=f"{folder.paths[3].name}: cannot be read as an image") as caught:
        run(folder, Preset(size=(8, 8)), workers=workers)
    assert "\n" not in str(caught.value)  # and no traceback of a worker


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_batches_are_a_function_of_seed_epoch_and_place(torchvision, settings):
    data, preset = numbered(24), Preset(mean=(0.0,), std=(1 / 255,), **settings)
    state = torch.get_rng_state()
    first = run(data, preset, batch_size=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(first, run(data, preset, batch_size=8))
    assert equal(first[1:], run(data, preset, batch_size=8, start_batch=1)), "and goes on in the middle of an epoch"
    assert not equal(first, run(data, preset, batch_size=8, epoch=1))
    assert not equal(first, run(data, preset, batch_size=8, seed=1))
    plain = run(data, Preset(mean=(0.0,), std=(1 / 255,)), batch_size=8)
    shares = []
    for (images, labels), (own, numbers) in zip(first, plain, strict=True):
        assert labels.shape == (8, 24)
        torch.testing.assert_close(labels.sum(1), torch.ones(8))
        shares.append(labels[0, numbers[0]].item())
        other = own.roll(1, 0)
        blend = shares[-1] * own + (1 - shares[-1]) * other
        cut = ((images == own) | (images == other)).all()
        assert cut or torch.allclose(images, blend, atol=1e-3)
    assert len(set(shares)) == 3
    tested = run(data, preset, batch_size=8, train=False)
    assert tested[0][1].dtype == torch.int64


def test_randaugment_is_a_function_of_seed_epoch_and_index(torchvision, folder):
    preset = Preset(mean=(0.0,), std=(1 / 255,), size=(6, 8), randaugment=9)
    data = numbered(16)
    whole, _ = by_index(run(data, preset, batch_size=16))
    parts, _ = by_index(run(data, preset, batch_size=5))
    assert torch.equal(whole, parts)
    later, _ = by_index(run(data, preset, batch_size=16, epoch=1))
    assert not torch.equal(whole, later)
    plain, _ = by_index(run(data, Preset(mean=(0.0,), std=(1 / 255,), size=(6, 8))))
    changed = (whole != plain).flatten(1).any(1)
    assert changed.float().mean() > 0.5
    alone, helped = (run(folder, preset, workers=workers) for workers in (0, 1))
    assert equal(alone, helped)
    tested = run(data, preset, train=False)
    assert torch.equal(by_index(tested)[0], plain)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"randaugment": 31}, "randaugment must be a whole number from 0 to 30"),
        ({"mixup": -1.0}, "mixup must be a number from 0"),
    ],
)
def test_presets_of_mixing_are_checked(wrong, words):
    with pytest.raises(ValueError, match=words):
        Preset(**wrong)
