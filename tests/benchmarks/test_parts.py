"""What the benchmarks are made of: timing, shapes, counts; and that the peers compute the same as we do."""

import subprocess
import sys
import time

import numpy as np
import pytest

from bitnet import Tensor, execution, functional, layers, models, no_grad
from bitnet.kernels.products.geometry import Conv
from bitnet.quantizers import DoReFaActivation, TWNWeight


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


def test_what_is_the_same_as_another_is_measured_once():
    import common

    calls = []
    first = common.Contender("case", "layer", "1,2,-", "popcount", {"": lambda: calls.append(1) or 1e-3}, 1, "gmacs", 1)
    rows = common.measure([first], {"popcount_gmacs": 100.0}, 2)
    count = len(calls)
    first = common.Contender("case", "layer", "1,2,-", "popcount", {"": lambda: calls.append(1) or 1e-3}, 1, "gmacs", 1)
    again = common.Contender("case", "layer", "1,2,-", "auto", {"": lambda: 1 / 0}, 1, "gmacs", 1, same=first)
    rows = common.measure([first, again], {"popcount_gmacs": 100.0}, 2)
    assert len(calls) == 2 * count and rows[0]["ms"] == rows[1]["ms"] and rows[1]["impl"] == "auto"


def test_methods_networks_and_their_floats():
    import train_step

    for name in ("bnn", "twn", "ttq"):
        subject = train_step.of_method(name)
        families = []
        for network in (subject.network(), subject.real()):
            with execution.log() as records:
                train_step.trainer(network, "auto", train_step.batches(1, 4, network.input_shape))()
            families.append({record.family for record in records})
        # TTQ's first layer is real; the others' meets pixels as codes
        assert (families[0] == {"float32"}) == (name == "ttq") and families[1] == {"float32"}
        shapes = [{p.shape for p in network.parameters()} for network in (subject.network(), subject.real())]
        assert max(shapes[0], key=np.prod) == max(shapes[1], key=np.prod)


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

    for name in ("A", "C"):
        model = models.svhn(name, (1, 2, 4)).eval()
        with execution.log() as records, no_grad():
            model(np.zeros((1, 40, 40, 3), np.float32))
        inner = [record for record in records if record.layer in models.INNER_LAYERS]
        layers = conv.svhn(name)
        assert [record.macs for record in inner] == [layer.conv.macs(1, layer.size, layer.size) for layer in layers]
        assert [record.input_shape[1] for record in inner] == [layer.size for layer in layers]
    assert [layer.name for layer in conv.svhn("A")] == [f"SVHN-A conv{i}" for i in range(1, 7)]


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
    network = torch_peer.network_of(models_[bits]).eval()
    with torch.inference_mode():
        theirs = network(torch_peer.images_of(images)).numpy()
    with no_grad():
        ours = models_[bits](Tensor(images)).data
    # a rounding error may push an activation over the edge of a level
    assert np.median(np.abs(theirs - ours)) < 1e-3 * np.abs(ours).max()


def trees():
    """Networks of other shapes than SVHN's, all kinds of modules among them, and images."""
    residual = layers.Sequential(
        layers.Block(1, 8, 3, stride=2, padding="same"),
        layers.Residual(layers.Block(8, 8, 3, padding="same"), layers.MaxPool(3, 1, 1)),
        layers.Residual(layers.Block(8, 16, 3, stride=2, padding=1), shortcut=layers.Conv2d(8, 16, 1, stride=2)),
        layers.Activation(), layers.MaxPool(3, 2, 1), layers.AvgPool(2), layers.Flatten(), layers.Linear(64, 12),
        layers.BatchNorm(12), layers.Clip(), layers.Linear(12, 12), layers.Reshape((2, 3, 2)), layers.Dropout(),
        layers.Conv2d(2, 5, 1, bias=True))
    found = {"lenet": models.build("lenet"), "mlp": models.build("mlp", width=64), "residual": residual}
    images = np.random.default_rng(0).random((8, 28, 28, 1), np.float32)
    with no_grad():
        for network in found.values():
            for _ in range(3):
                network(images)
            network.eval()
    return found, images


@pytest.mark.parametrize("name", ["lenet", "mlp", "residual"])
def test_torch_runs_any_tree(name):
    torch = pytest.importorskip("torch")
    import torch_peer

    found, images = trees()
    network = torch_peer.network_of(found[name], images.shape[1:]).eval()
    with torch.inference_mode():
        theirs = network(torch_peer.images_of(images)).numpy()
    with no_grad():
        ours = found[name](images).data
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    assert theirs.shape == ours.shape and np.abs(theirs - ours).max() < 1e-4 * np.abs(ours).max()


def test_torch_says_what_it_does_not_simulate():
    pytest.importorskip("torch")
    import torch_peer

    with pytest.raises(ValueError, match="only DoReFaWeight is simulated by PyTorch here, not TWNWeight"):
        torch_peer.network_of(layers.Linear(4, 2, weight_quantizer=TWNWeight()), (4,))
    with pytest.raises(ValueError, match=r"act is not compared with PyTorch: its Lambda has no counterpart"):
        torch_peer.network_of(layers.Sequential(act=layers.Lambda(functional.tanh)), (2, 2, 1))


def test_torch_trains_all_parameters(networks):
    torch = pytest.importorskip("torch")
    import torch_peer

    models_, images = networks
    network = torch_peer.network_of(models_[1, 2, 4]).train()
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


@pytest.mark.parametrize("name", ["lenet", "mlp", "residual"])
def test_openvino_runs_any_tree(name):
    pytest.importorskip("openvino")
    import openvino_peer

    found, images = trees()
    with no_grad():
        ours = found[name](images).data
    for kind, tolerance in (("openvino", 1e-4), ("openvino_int8", 0.3)):
        theirs = openvino_peer.logits(found[name], images, kind)
        assert theirs.shape == ours.shape and np.abs(theirs - ours).max() < tolerance * np.abs(ours).max()
    assert openvino_peer.logits(found[name], images, "openvino_binary").shape == ours.shape


def test_openvino_gets_float_networks():
    pytest.importorskip("openvino")
    import openvino_peer

    with pytest.raises(ValueError, match=r"conv0\.act is quantized"):
        openvino_peer.network_model(models.svhn("D"), (1, 40, 40, 3), "openvino")


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


def test_other_programs_are_noticed_while_they_disturb():
    import common

    begun = common._processor_time()
    if begun is None:
        pytest.skip("this system does not tell")
    other = subprocess.Popen([sys.executable, "-c", "import time\nstart = time.time()\nwhile time.time() < start + 1.5: pass"])
    time.sleep(1)
    busy = common.others_busy(begun)
    assert busy > 0.3  # most of a processor, but for the start of Python
    other.wait()
    assert common.others_busy((begun[0], begun[1] + 1e6, begun[2])) == 0 and common.others_busy(None) is None
