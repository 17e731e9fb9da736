"""`foveal choose`: a row for each candidate, an entry for each that a plan has."""

import json

from torch import nn

from foveal.surgery import convert


def test_a_table_and_entries_that_work(run):
    code, out, err = run("choose", "--field", "9", "--input-size", "8,12,12", "--stride", "2")
    assert (code, err) == (0, "")
    for name in (
        "3x3 convolution",
        "9x9 convolution",
        "depthwise 9x9",
        "log-polar",
        "cross",
        "anisotropic 3x3",
    ):
        assert name in out
    entries = [json.loads(line.partition(": ")[2]) for line in out.splitlines() if line.endswith("}")]
    assert len(entries) == 8
    for entry in entries:
        convert(nn.Conv2d(8, 8, 3, padding=1), {"*": entry})


def test_what_is_refused(run):
    for arguments, words in (
        (("--field", "8"), "field must be an odd number"),
        (("--input-size", "8"), "--input-size must be"),
    ):
        code, _, err = run("choose", *arguments)
        assert code == 2
        assert words in err
