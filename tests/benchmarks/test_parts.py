"""What the benchmarks are made of: timing, shapes, counts; and that the peers compute the same as we do."""

import numpy as np
import pytest

from bitnet import Tensor, execution, models, no_grad
from bitnet.kernels.products.geometry import Conv
from bitnet.quantizers import DoReFaActivation


@pytest.fixture(scope="module")
def networks():
    """A float model and a (1,2,4) model in eval mode with statistics of their own, and images."""
    images = np.random.default_rng(0).random((8, 40, 40, 3), np.float32)
    found = {}
    for bits in ((32, 32, 32), (1, 2, 4)):
        found[bits] = models.svhn("D", bits)
        with no_grad():
            found[bits](images)
        found[bits].eval()
    return found, images


def test_peers_take_turns_and_the_median_counts():
    import common

    order, clock = [], iter(range(1000))

    def contender(name):
        def call():
            order.append(name)
            return 1e-3 * (1 + next(clock) % 3)  # a clock of its own

        return common.Contender("case", "layer", "1,2,-", name, {"": call}, 1e6, "gmacs", 1e6, binary_macs=2e6)

    rows = common.measure([contender("a"), contender("b")], {"popcount_gmacs": 100.0}, 4)
    assert "".join(dict.fromkeys(order)) == "ab" and "ba" in "".join(order)
    for row in rows:
        assert row["ms"] == pytest.approx(2) and row["gmacs"] == pytest.approx(0.5)
        assert row["share_of_peak"] == pytest.approx(0.01)


def test_the_quickest_variant_is_kept_and_named():
    import common

    variants = {"slow": lambda: 2e-3, "quick": lambda: 1e-3}
    contender = common.Contender("case", "layer", "1,2,-", "torch", variants, 1, "gmacs", 1)
    assert contender.settle() and contender.note == "quick (best of 2)"


def test_a_peer_that_fails_is_left_out(capsys):
    import common

    def fail():
        raise RuntimeError("not supported\nand more")

    contender = common.Contender("case", "layer", "1,2,-", "torch", {"": fail}, 1, "gmacs", 1, peer=True)
    assert common.measure([contender], {"popcount_gmacs": 1.0}, 1) == []
    assert "not supported" in capsys.readouterr().err


def test_layers_of_the_benchmark_are_those_of_the_models():
    import conv

    for name, width in (("A", 1), ("C", 0.25)):
        model = models.svhn(name, (1, 2, 4))
        with execution.log() as records, no_grad():
            model(np.zeros((1, 40, 40, 3), np.float32))
        inner = [record for record in records if record.layer in models.INNER_LAYERS]
        layers = conv.svhn(name, width)
        assert [record.macs for record in inner] == [layer.conv.macs(1, layer.size, layer.size) for layer in layers]
        assert [record.input_shape[1] for record in inner] == [layer.size for layer in layers]


def test_executed_counts_operations_and_bytes():
    import common

    shapes = (2, 8, 8, 16), (2, 6, 6, 32)
    macs = Conv(16, 32, (3, 3)).macs(2, 8, 8)
    record = execution.Record("layer", "weight_grad", "popcount", (4, 2), macs, *shapes)
    assert common.executed([record]) == (macs * 8, 2 * 8 * 8 * 16 + 2 * 6 * 6 * 32 + 4 * 9 * 16 * 32)


def test_our_calls_compute_what_the_engine_computes():
    import common
    import conv

    given = common.options("conv.py", "", ["--quick"])
    work = conv.Work(conv._layer("small", 2, 6, 5, 7, 3), given)
    for path, bits in (("forward", (1, 2, None)), ("input_grad", (1, None, 4)), ("weight_grad", (None, 2, 4))):
        lhs, rhs = work.operands(path, *bits)
        results = [work.call(path, lhs, rhs, family)() for family in execution.FAMILIES]
        assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("bits", [(32, 32, 32), (1, 2, 4)])
def test_torch_runs_the_same_network(networks, bits):
    torch = pytest.importorskip("torch")
    import torch_peer

    models_, images = networks
    network = torch_peer.Network(models_[bits], bits).eval()
    with torch.inference_mode():
        theirs = network(torch_peer.images_of(images)).numpy()
    with no_grad():
        ours = models_[bits](Tensor(images)).data
    # a rounding error may push an activation over the edge of a level
    assert np.median(np.abs(theirs - ours)) < 1e-3 * np.abs(ours).max()


def test_torch_trains_all_parameters(networks):
    torch = pytest.importorskip("torch")
    import torch_peer

    models_, images = networks
    network = torch_peer.Network(models_[1, 2, 4], (1, 2, 4)).train()
    torch.nn.functional.cross_entropy(network(torch_peer.images_of(images)), torch.arange(8)).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_torch_gradient_levels():
    torch = pytest.importorskip("torch")
    import torch_peer

    y = torch.randn(3, 4, 5, 5, requires_grad=True)
    grad = torch.randn(3, 4, 5, 5)
    grad[1] = 0
    torch_peer.RoundGradient.apply(y, 2).backward(grad)
    largest = grad.abs().amax((1, 2, 3), keepdim=True)
    levels = (y.grad / largest.clamp_min(1e-30) * 3).round()
    assert torch.allclose(levels * largest / 3, y.grad, atol=1e-6) and set(levels[0].unique().tolist()) <= {-3, -1, 1, 3}
    assert y.grad[1].abs().max() == 0


@pytest.mark.parametrize("kind, tolerance", [("openvino", 1e-4), ("openvino_int8", 0.25)])
@pytest.mark.parametrize("nhwc", [False, True])
def test_openvino_runs_the_same_network(networks, kind, tolerance, nhwc):
    pytest.importorskip("openvino")
    import openvino_peer

    models_, images = networks
    with no_grad():
        ours = models_[32, 32, 32](Tensor(images)).data
    assert np.abs(openvino_peer.logits(models_[32, 32, 32], images, kind, nhwc) - ours).max() < tolerance * np.abs(ours).max()


def test_openvino_binary_convolution_counts_bits():
    pytest.importorskip("openvino")
    import openvino_peer

    rng = np.random.default_rng(0)
    conv = Conv(64, 32, (3, 3), padding=((0, 0), (0, 0)))
    x, w = rng.random((2, 7, 7, 64), np.float32), rng.standard_normal(conv.weight_shape).astype(np.float32)
    signs = np.where(x > 0.5, 1, -1).astype(np.float32)
    expected = execution.forward(signs, np.where(w >= 0, 1, -1).astype(np.float32), conv)
    assert np.array_equal(openvino_peer.layer_result(x, w, conv, "openvino_binary"), expected)


def test_openvino_float_layer():
    pytest.importorskip("openvino")
    import openvino_peer

    rng = np.random.default_rng(0)
    conv = Conv(8, 12, (3, 3), (2, 2), ((0, 1), (0, 1)), groups=2)
    x, w = rng.random((2, 8, 8, 8), np.float32), rng.standard_normal(conv.weight_shape).astype(np.float32)
    assert np.allclose(openvino_peer.layer_result(x, w, conv, "openvino"), execution.forward(x, w, conv), atol=1e-4)


def test_torch_layer_quantizes_as_we_do():
    torch = pytest.importorskip("torch")
    import torch_peer

    x = np.random.default_rng(0).uniform(-0.5, 1.5, (2, 3, 3, 4)).astype(np.float32)
    theirs = torch_peer.fake_activation(torch.from_numpy(x), 2).numpy()
    assert np.allclose(theirs, DoReFaActivation(2).encode(x).decode(), atol=1e-6)
