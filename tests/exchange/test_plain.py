"""Exported networks in onnxruntime: the frozen network's numbers, from the same images."""

import os
from pathlib import Path

import numpy as np
import pytest
from network_cases import CASES, lenet, pixels, trained

import bitnet
from bitnet import datasets, layers, methods, models
from bitnet.deploy import freeze, reads, stages

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from bitnet.exchange import plain  # noqa: E402  (needs onnx)

LIKE_OTHERS = ("svhn (1, 4, 4)", "svhn twn", "svhn gxnor", "svhn qnn", "float", "bwn", "binaryconnect_stochastic")


def session(path):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path, images):
    made = session(path)
    return made.run(None, {made.get_inputs()[0].name: images})[0]


@pytest.mark.parametrize("case", [case for case in CASES if case not in LIKE_OTHERS])
def test_the_frozen_networks_numbers(case, tmp_path):
    frozen = freeze(trained(CASES[case]()))
    bitnet.export(tmp_path / "net.onnx", frozen)
    x = pixels(frozen.input_shape)
    expected, found = frozen(x).data, run(tmp_path / "net.onnx", x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


def digits(shape, count):
    """Genuine digits where they are at hand, else drawn ones."""
    folder = Path(os.environ.get("BITNET_TEST_DATA", "none"), "mnist" if shape[2] == 1 else "svhn-subset")
    data = folder if folder.is_dir() else "synthetic"
    return np.ascontiguousarray(datasets.load_test(data, shape)[0].images[:count])


@pytest.mark.parametrize("build", [
    lambda: models.svhn("D", (1, 2, 4)), lambda: models.svhn("D", (1, 1, 4)), lambda: models.svhn("D", (4, 8, 32)),
    lambda: lenet(methods.BNN()), lambda: lenet(methods.TWN()), lambda: lenet(methods.TTQ()), lambda: lenet(methods.XNOR())])
def test_the_same_class_for_every_digit(build, tmp_path):
    frozen = freeze(trained(build()))
    x = digits(frozen.input_shape, 200)
    bitnet.export(tmp_path / "net.onnx", frozen)
    np.testing.assert_array_equal(run(tmp_path / "net.onnx", x).argmax(1), frozen(x).data.argmax(1))


def test_integers_stay_integers(tmp_path):
    bitnet.export(tmp_path / "net.onnx", trained(models.svhn("D", (1, 2, 4))))
    model = onnx.load(tmp_path / "net.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("ConvInteger") == 6 and kinds.count("Conv") == 1  # the first layer's
    assert not {"Round", "BatchNormalization", "QuantizeLinear"} & set(kinds)
    weights = {one.name: one for one in model.graph.initializer}
    for node in (node for node in model.graph.node if node.op_type == "ConvInteger"):
        assert weights[node.input[1]].data_type == onnx.TensorProto.UINT8
    assert (tmp_path / "net.onnx").stat().st_size < 60_000  # of 29,000 parameters


def test_what_an_image_is_made_of_enters_as_it_is(tmp_path):
    frozen = freeze(trained(lenet(methods.BNN())))  # its pixels are codes
    bitnet.export(tmp_path / "net.onnx", frozen)
    kinds = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert kinds[:2] == ["Transpose", "ConvInteger"]


def test_one_image_and_names_of_classes(tmp_path):
    net = trained(models.svhn("D", (1, 2, 4)))
    net.classes = tuple("0123456789")
    frozen = freeze(net)
    bitnet.export(tmp_path / "net.onnx", net)
    x = pixels((40, 40, 3), 1)
    np.testing.assert_allclose(run(tmp_path / "net.onnx", x), frozen(x).data, atol=1e-6)
    about = session(tmp_path / "net.onnx").get_modelmeta().custom_metadata_map
    assert about["classes"].split("\n") == list("0123456789")


def test_numbers_that_are_no_images(tmp_path):
    net = bitnet.Sequential(layers.Linear(7, 20), layers.Activation(bitnet.quantizers.DoReFaActivation(3)),
                            layers.Linear(20, 3, weight_quantizer=bitnet.quantizers.DoReFaWeight(2)))
    x = np.random.default_rng(0).normal(0, 2, (5, 7)).astype(np.float32)
    bitnet.export(tmp_path / "net.onnx", net, shape=(7,))
    np.testing.assert_allclose(run(tmp_path / "net.onnx", x), freeze(net, (7,))(x).data, atol=1e-6)


@pytest.mark.parametrize("quantizer", [
    bitnet.quantizers.DoReFaActivation(1), bitnet.quantizers.DoReFaActivation(5), bitnet.quantizers.BNNActivation(),
    bitnet.quantizers.BinaryInput(0.3), bitnet.quantizers.GXNORActivation(), bitnet.quantizers.GXNORActivation(3),
    bitnet.quantizers.QNNLogarithmic(3), bitnet.quantizers.QNNLinear(8), bitnet.quantizers.NormalizedActivation(4)])
def test_thresholds_of_float32_are_the_quantizers(quantizer):
    def height(numbers):
        result = quantizer.encode(numbers)
        return getattr(result, "values", result)

    thresholds, heights = plain.steps(height)
    x = np.concatenate([np.random.default_rng(0).normal(0, 1.5, 2000).astype(np.float32), thresholds,
                        np.nextafter(thresholds, np.float32(-np.inf)), np.float32([0, -0.0, 1e-45, -1e-45])])
    np.testing.assert_array_equal(heights[np.searchsorted(thresholds, x, side="right")], height(x))


class Doubled(stages.Tanh):
    """A stage of one's own."""

    kind = "doubled for a test of exporting"

    def run(self, x):
        return x * 2


class Doubling(layers.Clip):
    def forward(self, x):
        return x * 2


@reads(Doubling)
def _(module, name, out):
    out.add(Doubled, name)


def test_a_stage_that_nobody_exports_is_named(tmp_path, monkeypatch):
    net = bitnet.Sequential(layers.Images(4, 4, 3), body=bitnet.Sequential(twice=Doubling(0, 1)), flatten=layers.Flatten())
    monkeypatch.delitem(plain.EXPORTERS, stages.Tanh)
    with pytest.raises(ValueError, match=r"body\.twice cannot be exported: there is no exporter"):
        bitnet.export(tmp_path / "net.onnx", net)
    assert not (tmp_path / "net.onnx").exists()


def test_bad_arguments(tmp_path, monkeypatch):
    net = models.svhn("D", (1, 2, 4))
    with pytest.raises(ValueError, match="the form must be one of onnx"):
        bitnet.export(tmp_path / "net.onnx", net, form="tflite")
    with pytest.raises(ValueError, match="a tree of modules"):
        bitnet.export(tmp_path / "net.onnx", "net.h5")
