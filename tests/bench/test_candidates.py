"""Every candidate has the size and the field that it is offered for."""

import pytest
import torch

from foveal.bench.candidates import candidates


@pytest.mark.parametrize(("field", "stride"), [(9, 1), (21, 2)])
def test_one_size_and_the_field_that_is_said(field, stride):
    input = torch.randn(1, 4, 48, 48)
    expected = torch.nn.Conv2d(4, 6, 3, stride, 1)(input).shape
    found = candidates(4, 6, field, stride)
    assert len(found) == 9
    for one in found:
        assert one.layer(input).shape == expected, one.name
        if one.field.isdecimal():
            torch.manual_seed(0)
            torch.nn.init.normal_(next(p for p in one.layer.parameters() if p.ndim > 1))
            center = torch.zeros_like(input, requires_grad=True)
            one.layer.double()(center.double())[0, :, 24 // stride, 24 // stride].sum().backward()
            seen = center.grad.abs().sum((0, 1)).nonzero()
            width = int((seen.amax(0) - seen.amin(0)).max()) + 1
            assert width == int(one.field), one.name


@pytest.mark.parametrize("field", [3, 8, 9.0, True])
def test_bad_fields(field):
    with pytest.raises(ValueError, match="field must be an odd number of pixels from 5"):
        candidates(4, 4, field)
