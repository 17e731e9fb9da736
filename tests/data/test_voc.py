"""Annotations of PASCAL VOC as they are written, also with parts that are not there."""

from xml.etree import ElementTree

import pytest

from foveal.data.voc import VOC_CLASSES, read_annotation


def test_classes_are_those_of_the_challenge():
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


def test_texts_come_as_they_stand(tmp_path):
    path = tmp_path / "one.xml"
    path.write_text(
        """<annotation><size><width>60</width><height>40</height><depth>3</depth></size>
        <object><name> dog </name><difficult>1</difficult><part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>
        <bndbox><xmax>30</xmax><xmin>1</xmin><ymin>2.5</ymin><ymax>10</ymax></bndbox></object>
        <object><bndbox><xmin>5</xmin></bndbox></object></annotation>"""
    )
    found = read_annotation(path)
    assert found.size == ("40", "60")
    assert found.objects == [
        (" dog ", ("1", "2.5", "30", "10"), "1"),
        (None, ("5", None, None, None), "0"),
    ]


def test_what_is_not_there(tmp_path):
    path = tmp_path / "empty.xml"
    path.write_text("<annotation/>")
    assert read_annotation(path) == ((None, None), [])
    path.write_text("<annotation>")
    with pytest.raises(ElementTree.ParseError):
        read_annotation(path)
    with pytest.raises(FileNotFoundError):
        read_annotation(tmp_path / "none.xml")
