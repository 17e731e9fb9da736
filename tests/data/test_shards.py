"""Shards: archives as WebDataset writes them, the same bits as files, and broken ones."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data import Preset, batches, create_dataset

RNG = np.random.default_rng(0)


def png():
    content = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(content, format="png")
    return content.getvalue()


def write(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def root(tmp_path):
    """Three training shards and a test shard, and the same images as a folder."""
    images = [png() for _ in range(14)]
    samples = [[(f"k{i:02}.png", image), (f"k{i:02}.cls", str(i % 3).encode())] for i, image in enumerate(images)]
    home = tmp_path / "shards"
    for k, part in enumerate((samples[:4], samples[4:8], samples[8:11])):
        write(home / f"train-{k:06}.tar", [file for sample in part for file in sample])
    write(home / "val-000000.tar", [file for sample in samples[11:] for file in sample[::-1]])
    (tmp_path / "images.npy").write_bytes(b"".join(images))
    return home


def run(dataset, **more):
    how = {
        "batch_size": 4,
        "seed": 1,
        "epoch": 2,
        "train": True,
        "preset": Preset(size=(8, 8), crop="random", resize=9),
    }
    return list(batches(dataset, **{**how, **more}))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def test_samples_in_the_order_of_the_archives(root):
    train, test = create_dataset("webdataset", "train", root), create_dataset("webdataset", "test", root)
    assert (len(train), len(test), train.classes) == (11, 3, ("0", "1", "2"))
    assert train.labels.tolist() == [i % 3 for i in range(11)]
    assert test.labels.tolist() == [11 % 3, 12 % 3, 13 % 3]
    assert [path.name for path in train.paths] == [f"k{i:02}.png" for i in range(11)]
    assert train[0][0].shape == (3, 9, 12)
    (root / "classes.txt").write_text("a\nb\nc\nd\n")
    assert create_dataset("webdataset", "test", root).classes == ("a", "b", "c", "d")


def test_the_same_bits_as_files_for_any_workers_and_on_going_on(root, tmp_path):
    shards = create_dataset("webdataset", "train", root)
    for i, path in enumerate(shards.paths):
        folder = tmp_path / "files" / "train" / "all"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02}.png").write_bytes(path.read())
    files = create_dataset("folder", "train", tmp_path / "files")
    reference = run(shards)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(reference, run(files), strict=True))
    for workers in (1, 2):
        assert same(run(shards, workers=workers), reference)
    assert same(run(shards, start_batch=1, workers=2), reference[1:])
    assert not same(run(shards, epoch=3), reference)


def test_what_webdataset_itself_writes_and_reads(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    images = [RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8) for _ in range(5)]
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=3, verbose=0) as sink:
        for i, image in enumerate(images):
            sink.write({"__key__": f"sample{i}", "png": image, "cls": i % 2})
    found = create_dataset("webdataset", "train", tmp_path)
    assert len({path.archive for path in found.paths}) == 2
    assert found.labels.tolist() == [0, 1, 0, 1, 0]
    for (image, _), expected in zip(found, images, strict=False):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_archives_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no train\*\.tar; expected archives of KEY\.jpg") as caught:
        create_dataset("webdataset", "train", tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("cut", [1, 3000, 10_240 - 512])
def test_truncated_archives(root, cut):
    path = root / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:-cut] if cut > 1 else b"x" * 2000)
    with pytest.raises(
        ValueError, match=r"train-000001\.tar is damaged \(.*; it is [\d,]+ bytes\); put the whole archive"
    ):
        create_dataset("webdataset", "train", root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.png", b"x")], r"one image \(.*\) and one \.cls; a has \.png"),
        ([("d/a.cls", b"1")], r"d/a has \.cls"),
        ([("a.png", b"x"), ("a.jpg", b"x"), ("a.cls", b"1")], r"a has \.png, \.jpg, \.cls"),
        ([("a.png", b"x"), ("a.cls", b"cat")], r"a\.cls: a class must be a whole number from 0; got b'cat'"),
        ([("a.png", b"x"), ("a.cls", b"-1")], "a class must be a whole number"),
        ([("a.png", b"x"), ("a.cls", b"1"), ("a.cls", b"1")], r"a\.cls is there twice; write the archive anew"),
        ([], "there must be images in it"),
    ],
)
def test_samples_that_are_wrong(tmp_path, files, message):
    write(tmp_path / "train.tar", files)
    with pytest.raises(ValueError, match=message) as caught:
        create_dataset("webdataset", "train", tmp_path)
    assert "train.tar" in str(caught.value)


def test_classes_beyond_those_of_training(root):
    write(root / "val-000001.tar", [("z.png", png()), ("z.cls", b"7")])
    with pytest.raises(
        ValueError, match=r"val-000001\.tar: z\.png: its class must be below 3, the number of classes; got 7"
    ):
        create_dataset("webdataset", "test", root)
