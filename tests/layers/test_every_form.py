"""What holds for every form of every layer: derivatives in every mode, and no mode that leaves a trace."""

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call

from foveal import layers, reparameterize
from foveal.layers import AnisotropicConv2d, LogPolarConv2d, LogPolarPool2d, cross
from foveal.ops.binned import op as binned
from foveal.ops.sampled import forms
from foveal.ops.sampled import op as sampled


class AtPoints(nn.Module):
    """A convolution of points as a function of their features."""

    def __init__(self):
        super().__init__()
        self.layer = layers.PointLogPolarConv(4, 4, 0.5)
        self.points = torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(0))

    def forward(self, features):
        return self.layer(self.points, features)


class AtOffsets(nn.Module):
    """A deformable convolution as a function of its input."""

    def __init__(self, dims=2):
        super().__init__()
        kind, conv = (layers.DeformConv2d, nn.Conv2d) if dims == 2 else (layers.DeformConv3d, nn.Conv3d)
        window = (3, 3) if dims == 2 else (1, 3, 3)
        self.sizes = [9 * dims, 9]
        self.layer = kind(4, 4, window, padding=tuple(side // 2 for side in window))
        self.predict = conv(4, sum(self.sizes), 3, padding=1)

    def forward(self, input):
        offset, mask = self.predict(input).split(self.sizes, 1)
        return self.layer(input, offset, mask)


class OfBoxes(nn.Module):
    """RoI pooling as a function of the map."""

    def __init__(self):
        super().__init__()
        self.layer = layers.DeformableRoIPool(4, 2)

    def forward(self, input):
        return self.layer(input, input.new_tensor([[0, 0, 0, 4, 4], [1, 1, 1, 5, 4]]))


LINE, IMAGE, VOLUME, FEATURES = (2, 4, 11), (2, 4, 6, 5), (2, 4, 4, 4, 3), (2, 7, 4)
FORMS = {
    "log_polar_1d": (lambda: layers.LogPolarConv1d(4, 4, 9), LINE),
    "log_polar": (lambda: LogPolarConv2d(4, 4, 5), IMAGE),
    "log_polar_wide": (lambda: LogPolarConv2d(4, 4, 5, padding_mode="replicate", dilation=2), IMAGE),
    "log_polar_sum": (lambda: LogPolarConv2d(4, 4, 5, stride=2, groups=2, bias=False, reduce="sum"), IMAGE),
    "log_polar_depthwise": (lambda: LogPolarConv2d(4, 4, 5, groups=4, padding="same"), IMAGE),
    "log_polar_counted": (lambda: LogPolarConv2d(4, 4, 5, count_center=True), IMAGE),
    "log_polar_max": (lambda: LogPolarConv2d(4, 4, 5, reduce="max"), IMAGE),
    "log_polar_3d": (lambda: layers.LogPolarConv3d(4, 4, 3), VOLUME),
    "log_polar_3d_max": (lambda: layers.LogPolarConv3d(4, 4, 3, reduce="max"), VOLUME),
    "cross_1d": (lambda: layers.CrossConv1d(4, 4, 3, field=5), LINE),
    "cross": (lambda: layers.CrossConv2d(4, 4, 3, field=5), IMAGE),
    "cross_wide": (lambda: layers.CrossConv2d(4, 40, 3, field=5), IMAGE),
    "cross_3d": (lambda: layers.CrossConv3d(4, 4, 3, field=5), VOLUME),
    "deformable": (lambda: AnisotropicConv2d(4, 4, scales=(1,), offset_bound=None), IMAGE),
    "one_scale": (lambda: AnisotropicConv2d(4, 4, scales=(2,), offset=False), IMAGE),
    "anisotropic": (lambda: AnisotropicConv2d(4, 4, scales=(1, 2, 3), stride=2), IMAGE),
    "anisotropic_own": (lambda: AnisotropicConv2d(4, 4, fuse="max", share_weights=False, groups=2), IMAGE),
    "anisotropic_sum": (lambda: AnisotropicConv2d(4, 4, fuse="sum", share_weights=False), IMAGE),
    "anisotropic_concat": (lambda: AnisotropicConv2d(4, 4, fuse="concat"), IMAGE),
    "anisotropic_reflect": (lambda: AnisotropicConv2d(4, 4, scales=(1, 3), padding_mode="reflect"), IMAGE),
    "learned": (lambda: AnisotropicConv2d(4, 4, scales="learned"), IMAGE),
    "deform": (AtOffsets, IMAGE),
    "anisotropic_3d": (lambda: layers.AnisotropicConv3d(4, 4, (1, 3, 3), fuse="sum", share_weights=False), VOLUME),
    "deform_3d": (lambda: AtOffsets(3), VOLUME),
    "modulated_3d": (lambda: layers.ModulatedDeformConv3d(4, 4, (1, 3, 2), padding=1, offset_groups=2), VOLUME),
    "modulated": (lambda: layers.ModulatedDeformConv2d(4, 4, offset_groups=2), IMAGE),
    "deform_4": (lambda: layers.DeformConv4(4, offset_groups=2), IMAGE),
    "snake": (lambda: layers.SnakeConv2d(4, 4, 5, axis="y"), IMAGE),
    "ldconv": (lambda: layers.LDConv2d(4, 4, 5, stride=2), IMAGE),
    "pinwheel": (lambda: layers.PinwheelConv2d(4, 4), IMAGE),
    "pool_mean": (lambda: LogPolarPool2d(5), IMAGE),
    "pool_sum": (lambda: LogPolarPool2d(5, reduce="sum", arrangement="bins"), IMAGE),
    "pool_max": (lambda: LogPolarPool2d(5, reduce="max"), IMAGE),
    "points": (AtPoints, FEATURES),
    "roi": (OfBoxes, IMAGE),
}


def build(form, dtype=torch.float32):
    """A layer whose offsets move, and an input."""
    make, shape = FORMS[form]
    layer = make().to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.4)
    return layer, torch.randn(shape, dtype=dtype)


def test_there_is_a_form_of_every_layer():
    made = {type(build(form)[0]) for form in FORMS}
    made |= {type(build(form)[0].layer) for form in ("points", "roi", "deform", "deform_3d")}
    made.add(layers.DeformableLKA)  # two of "deform" and a product, but thousands of parameters
    assert made >= {kind for kind in vars(layers).values() if isinstance(kind, type) and issubclass(kind, nn.Module)}


def dual(function, primals, tangents):
    with forward_ad.dual_level():
        made = {name: forward_ad.make_dual(value, tangents[name]) for name, value in primals.items()}
        return forward_ad.unpack_dual(function(made)).tangent


def dual_without_graph(function, primals, tangents):
    with torch.no_grad():
        return dual(function, primals, tangents)


def dual_of_leaves(function, primals, tangents):
    return dual(function, {name: value.detach().requires_grad_() for name, value in primals.items()}, tangents)


def jvp(function, primals, tangents):
    return torch.func.jvp(function, (primals,), (tangents,))[1]


def linearize(function, primals, tangents):
    return torch.func.linearize(function, primals)[1](tangents)


def columns(jacobian, primals, tangents):
    return sum(jacobian[name].flatten(-value.ndim) @ tangents[name].flatten() for name, value in primals.items())


def jacfwd(function, primals, tangents):
    return columns(torch.func.jacfwd(function)(primals), primals, tangents)


def jacobian(function, primals, tangents):
    names = list(primals)
    found = torch.autograd.functional.jacobian(
        lambda *values: function(dict(zip(names, values, strict=True))),
        tuple(value.detach() for value in primals.values()),
        strategy="forward-mode",
        vectorize=True,
    )
    return columns(dict(zip(names, found, strict=True)), primals, tangents)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script:FutureWarning", "ignore:Attempted to insert a get_attr"
)  # torch's own
@pytest.mark.parametrize(
    ("form", "over"),
    [
        (form, over)
        for form in FORMS
        for over in ("input", "parameters")
        if over == "input" or not form.startswith("pool")
    ],
)
def test_forward_mode_is_right_in_every_way_of_asking_for_it(form, over):
    layer, input = build(form)
    exact = build(form, torch.float64)[0]
    exact.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    primals = {"input": input} if over == "input" else dict(layer.named_parameters())
    tangents = {name: torch.randn_like(value) for name, value in primals.items()}

    def of(layer, input):
        return lambda given: layer(given["input"]) if over == "input" else functional_call(layer, given, (input,))

    def moved(by):
        with torch.no_grad():
            return of(exact, input.double())(
                {name: value.double() + by * tangents[name] for name, value in primals.items()}
            )

    expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
    ways = (dual, dual_without_graph, dual_of_leaves, jvp, jacfwd, jacobian)
    for way in (
        ways if over == "input" and not form.startswith("pool") else (*ways, linearize)
    ):  # that one takes seconds
        found = way(of(layer, input), primals, tangents)
        assert found is not None, f"{way.__name__} loses the tangent"
        assert (found - expected).norm() < 1e-4 * expected.norm(), way.__name__


@pytest.mark.parametrize("form", FORMS)
def test_torch_agrees_that_derivatives_fit_together(form):
    layer, input = build(form, torch.float64)
    input.requires_grad_()
    ways = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(layer, (input,), fast_mode=True, **ways)
    assert torch.autograd.gradgradcheck(layer, (input,), fast_mode=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("form", FORMS)
def test_third_derivatives_are_not_lost(form):
    layer, input = build(form, torch.float64)

    def gradient(input):
        return torch.autograd.grad(layer(input).pow(3).sum(), input, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, (input.requires_grad_(),), fast_mode=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_backward_pass_in_forward_mode_keeps_the_tangent(form):
    layer, input = build(form)
    output = layer(input.requires_grad_())
    by = [input, *layer.parameters()]
    cotangent, tangent = torch.randn_like(output), torch.randn_like(output)
    expected = torch.autograd.grad(output, by, tangent, retain_graph=True)  # a gradient is linear in its cotangent
    with forward_ad.dual_level():
        found = torch.autograd.grad(output, by, forward_ad.make_dual(cotangent, tangent))
        for mine, theirs in zip(found, expected, strict=True):
            assert torch.allclose(forward_ad.unpack_dual(mine).tangent, theirs, rtol=1e-4, atol=1e-4)


def first_in_inference_mode(layer, input):
    with torch.inference_mode():
        return layer(input)


def first_without_graph(layer, input):
    with torch.no_grad():
        return layer(input)


def first_mapped(layer, input):
    return torch.func.vmap(layer)(input[None])[0]


def first_compiled(layer, input):
    torch._dynamo.reset()  # one forward is compiled for so many layers only, in this test and in those after it
    return torch.compile(layer, backend="aot_eager")(input)


def first_faked(layer, input):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return layer(mode.from_tensor(input))


@pytest.mark.parametrize(
    "first", [first_in_inference_mode, first_without_graph, first_mapped, first_compiled, first_faked]
)
@pytest.mark.parametrize("form", FORMS)
def test_training_follows_any_first_call(form, first):
    for cache in (sampled._READY, binned._READY):
        cache.clear()
    forms._known_taps.cache_clear()
    cross._joint_map.cache_clear()
    layer, input = build(form)
    if form == "points" and first is first_faked:
        with pytest.raises(DynamicOutputShapeException):  # which points are neighbours depends on where they are
            first(layer, input)
    else:
        assert first(layer, input).shape == layer(input).shape
    for again in (layer, build(form)[0]):  # and another one of the same geometry
        output = again(input.requires_grad_())
        assert type(output) is torch.Tensor
        assert not output.is_inference()
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in again.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_layers_move_in_inference_mode_and_train_later(form):
    with torch.inference_mode():
        layer, input = build(form)
        layer.double()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)
    layer.requires_grad_()(input.double().clone().requires_grad_()).sum().backward()


@pytest.mark.parametrize("form", [form for form in FORMS if form != "points"])
def test_layers_are_made_on_meta_and_of_fake_tensors(form):
    make, shape = FORMS[form]
    plain, input = build(form)
    expected = plain(input)
    with FakeTensorMode():
        faked = make()
        assert faked(torch.randn(shape)).shape == expected.shape
    assert all(isinstance(tensor, FakeTensor) for tensor in (*faked.parameters(), *faked.buffers()))
    with torch.device("meta"):
        layer = make()
    assert layer(input.to("meta")).is_meta
    layer.load_state_dict(plain.state_dict(), assign=True)
    assert torch.equal(layer(input), expected)
    layer.to(input.device)
    assert all(tensor.device == input.device for tensor in layer.buffers())
    assert torch.equal(layer(input), expected)


@pytest.mark.parametrize("form", [form for form in FORMS if len(FORMS[form][1]) == 4])
def test_channels_last_changes_the_memory_and_not_the_numbers(form):
    layer, input = build(form)
    expected = layer(input)
    layer = layer.to(memory_format=torch.channels_last)
    found = layer(input.to(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last) or form in ("pool_sum", "roi")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_nothing_can_be_differentiated_twice(form, dtype):
    layer, input = build(form, dtype)
    call = layer
    if form == "roi":

        def call(input):
            return layer.layer(input, input.new_zeros(0, 5))
    elif form == "points":

        def call(features):
            return layer.layer(features.new_zeros(0, 7, 2), features)

    input = (input if form == "roi" else input[:0]).requires_grad_()
    by = [input, *layer.parameters()]
    first = torch.autograd.grad(call(input).pow(2).sum(), by, create_graph=True)
    second = torch.autograd.grad(sum(one.pow(2).sum() for one in first), by, allow_unused=True)
    assert all(one is None or one.eq(0).all() for one in (*first, *second))


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


SIZES = {
    layers.LogPolarConv1d: ((4, 6, 9, 2, 4, 1, 2), {"radial_bins": 3, "angular_bins": 2, "growth_rate": 2.5}),
    LogPolarConv2d: ((4, 6, (5, 7), 2, (2, 3), 1, 2), {"radial_bins": 3, "growth_rate": 2.5, "rotation": 0.5}),
    layers.LogPolarConv3d: ((4, 6, (3, 5, 5), 2, 1, 1, 2), {"angular_bins": (6, 3), "aspect_ratio": (1.5, 0.5)}),
    layers.CrossConv1d: ((4, 8, 3, 2, 1, 1, 2), {"share": 0.25, "field": 5, "radial_bins": 1}),
    layers.CrossConv2d: ((4, 8, 3, (2, 1), 1, 1, 2), {"share": 0.25, "field": (5, 7), "growth_rate": 2.5}),
    layers.CrossConv3d: ((4, 8, 3, 2, 1, 1, 2), {"share": 0.25, "field": 5}),
    AnisotropicConv2d: ((4, 6, 3, 2, (1, 1), 1, 2), {"scales": (1.5, 2.5), "offset_bound": (0.5, 1.5)}),
    layers.AnisotropicConv3d: ((4, 6, 3, 2, 1, 1, 2), {"scales": (1.5, 2.5), "offset_bound": (0.5, 1.5)}),
    LogPolarPool2d: (((5, 7), 2, (2, 3), 1), {"radial_bins": 3, "angular_bins": 4, "growth_rate": 2.5}),
    layers.PointLogPolarConv: ((4, 6, 0.5, 3), {"angular_bins": (6, 3), "growth_rate": 2.5, "spacing": 0.25}),
    layers.DeformableRoIPool: ((4, (2, 3), 0.5), {"sampling_ratio": 2, "offset_scale": 0.25}),
}


def other(value):
    """The same numbers of other kinds."""
    if isinstance(value, tuple):
        return np.array(value)
    return np.float32(value) if isinstance(value, float) else Index(value)


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_of_any_kind_are_those_of_python(kind):
    sizes, named = SIZES[kind]
    layer = kind(*sizes, **named)
    same = kind(*map(other, sizes), **{name: other(value) for name, value in named.items()})
    assert repr(same) == repr(layer)
    assert [tuple(p.shape) for p in same.parameters()] == [tuple(p.shape) for p in layer.parameters()]
    assert all(map(torch.equal, same.buffers(), layer.buffers()))
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(same, name, None) == getattr(layer, name, None)
        assert type(getattr(same, name, 1)) in (int, tuple)


CONVOLUTIONS = [
    kind
    for kind in SIZES
    if kind.__name__.removesuffix("d")[:-1].endswith("Conv") and kind is not layers.PointLogPolarConv
]


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_every_convolution_says_what_torch_s_do(kind):
    sizes, named = SIZES[kind]
    dims = int(kind.__name__[-2])
    theirs = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims](*sizes, padding_mode="circular")
    mine = kind(*sizes, padding_mode="circular", **named)
    for name in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    ):
        assert getattr(mine, name) == getattr(theirs, name)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("name", ["kernel_size", "stride", "dilation", "padding"])
def test_every_convolution_refuses_the_same_sizes(kind, name):
    dims = int(kind.__name__[-2])
    for wrong in (
        -1,
        (1,) * (dims + 1),
        1.5,
        True,
        None if name != "padding" else "valid ",
        np.float32(1),
        ("1",) * dims,
    ):
        with pytest.raises(ValueError, match=f"^{name} must be "):
            kind(4, 4, **{"kernel_size": 3, name: wrong})


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize("form", FORMS)
def test_scripting_says_what_to_do_instead(form):
    model = nn.Sequential(nn.Identity(), build(form)[0])
    with pytest.raises(NotImplementedError, match=r"cannot be scripted: trace the model .* export it"):
        torch.jit.script(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "form", ["log_polar", "log_polar_max", "cross", "anisotropic", "one_scale", "log_polar_3d", "pool_mean"]
)
def test_eager_quantization_says_what_to_do_instead(form):
    quantization = torch.ao.quantization
    layer, input = build(form)
    model = nn.Sequential(quantization.QuantStub(), layer, quantization.DeQuantStub()).eval()
    model.qconfig = quantization.default_qconfig
    prepared = quantization.prepare(model)
    prepared(input)
    with pytest.raises(
        ValueError, match=r"got torch.quint8: quantize a model that foveal.reparameterize\(model\) made"
    ):
        quantization.convert(prepared)(input)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["log_polar", "cross", "one_scale"])
def test_the_cures_of_quantization_cure(form):
    quantization = torch.ao.quantization
    layer, input = build(form)
    expected = layer(input)
    folded = nn.Sequential(quantization.QuantStub(), reparameterize(layer), quantization.DeQuantStub()).eval()
    folded.qconfig = quantization.default_qconfig
    folded = quantization.prepare(folded)
    folded(input)
    assert (quantization.convert(folded)(input) - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_a_symbolic_tracer_takes_it_as_one_node(form):
    build, shape = FORMS[form]
    model, input = nn.Sequential(build(), nn.ReLU()), torch.randn(shape)
    traced = fx.symbolic_trace(model)
    assert torch.equal(traced(input), model(input))
    nodes = [
        node.target for node in traced.graph.nodes if node.op == "call_module" and str(node.target).startswith("0")
    ]
    assert nodes
    assert all(
        isinstance(traced.get_submodule(target), layers.base.Mapped | nn.modules.conv._ConvNd) for target in nodes
    )


def test_a_layer_alone_cannot_be_traced():
    with pytest.raises(TypeError, match="LogPolarConv2d is one node for torch"):
        fx.symbolic_trace(LogPolarConv2d(4, 4, 5))
