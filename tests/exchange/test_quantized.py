"""Networks as QONNX: what the package qonnx makes of them, and the trees that come back."""

import numpy as np
import pytest
from network_cases import CASES, lenet, pixels, trained

import bitnet
from bitnet import layers, methods, models, quantizers

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def exported(net, path, shape=None):
    bitnet.export(path, net, form="qonnx", shape=shape)
    return path


def executed(path, x):
    """What qonnx makes of images (N, H, W, C) or of vectors, one after the other."""
    wrapper = pytest.importorskip("qonnx.core.modelwrapper")
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    model = wrapper.ModelWrapper(str(path)).transform(InferShapes())
    name, results = model.graph.input[0].name, []
    for one in x:
        one = one.transpose(2, 0, 1) if one.ndim == 3 else one
        results += execute_onnx(model, {name: np.ascontiguousarray(one[None], np.float32)}).values()
    return np.concatenate(results)


def nodes(path):
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("case", ["svhn (1, 2, 4)", "svhn (1, 1, 32)", "bnn", "twn", "ttq", "xnor", "qnn_log", "gxnor",
                                  "own dorefa", "bnn mlp"])
def test_qonnx_makes_the_same_of_it(case, tmp_path):
    net = trained(CASES[case]())
    x = pixels(net.input_shape, 2)
    with bitnet.no_grad():
        expected = net(x).data
    found = executed(exported(net, tmp_path / "net.onnx"), x.astype(np.float32) / 256)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def test_weights_of_few_bits(tmp_path):
    path = exported(trained(models.svhn("D", (4, 8, 32))), tmp_path / "net.onnx")
    graph = onnx.load(path).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    bits = [float(arrays[node.input[3]]) for node in graph.node if node.op_type == "Quant"]
    assert sorted(bits) == [4.0] * 6 + [8.0] * 6
    weights = [array for array in arrays.values() if array.ndim == 4 and array.dtype == np.uint8]
    assert len(weights) == 6 and max(array.max() for array in weights) <= 15
    assert nodes(exported(trained(lenet(methods.BNN())), tmp_path / "bnn.onnx")).count("BipolarQuant") == 3 + 4


# products of two ways, or Tanh; and cases that are like others
NONE = ("xnor", "xnor_gradients", "bitwise", "bwn", "float", "svhn (1, 4, 4)", "svhn (8, 8, 8)", "svhn gxnor", "svhn qnn",
        "svhn twn", "binaryconnect_stochastic")


@pytest.mark.parametrize("case", [case for case in CASES if case not in NONE])
def test_a_tree_comes_back(case, tmp_path):
    net = trained(CASES[case]())
    x = pixels(net.input_shape, 3)
    back = bitnet.load(exported(net, tmp_path / "net.onnx"))
    with bitnet.no_grad():
        expected, found = net(x).data, back(x).data
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * max(1, np.abs(expected).max()))
    assert back.input_shape == net.input_shape


def test_it_runs_on_integers_again_and_is_saved_and_trained(tmp_path):
    net = trained(models.svhn("D", (1, 2, 4)))
    net.classes = tuple("0123456789")
    back = bitnet.load(exported(net, tmp_path / "net.onnx"))
    kinds = [[stage.kind for stage in bitnet.freeze(one).stages] for one in (net, back)]
    assert kinds[0].count("thresholds") == kinds[1].count("thresholds") == 5 and back.classes == net.classes
    bitnet.save(tmp_path / "back.h5", back)
    x = pixels((40, 40, 3), 4)
    with bitnet.no_grad():
        np.testing.assert_array_equal(bitnet.load(tmp_path / "back.h5")(x).data, back(x).data)
    loss = bitnet.functional.softmax_cross_entropy(back.train()(x), np.arange(4))
    loss.backward()
    grads = [one.grad for name, one in back.named_parameters().items() if name.endswith("weight")]
    assert len(grads) == 8 and all(np.isfinite(grad).all() and grad.any() for grad in grads)


@pytest.mark.parametrize(("case", "words"), [("xnor", r"block\d\.scaled/Mul \(Mul\) joins 2 ways"),
                                             ("bitwise", r"fc0\.act/Tanh cannot be expressed by a layer: it is a Tanh")])
def test_what_no_layer_expresses_is_named(case, words, tmp_path):
    path = exported(trained(CASES[case]()), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=rf"net\.onnx: expected .*{words}"):
        bitnet.load(path)


# Files of other programs

DOMAIN = "qonnx.custom_op.general"


def tensor(name, array):
    return onnx.numpy_helper.from_array(np.asarray(array, np.float32) if name != "shape" else np.asarray(array, np.int64), name)


def foreign(path, made, arrays, shape=("N", 3, 8, 8), outputs=("N", 5)):
    """A file as another program would write it: nodes (type, inputs, output, attributes)."""
    made = [helper.make_node(kind, inputs, [output], f"node_{output}", domain=DOMAIN if "Quant" in kind else "", **given)
            for kind, inputs, output, given in made]
    ends = [[helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size)]
            for name, size in (("x", shape), (made[-1].output[0], outputs))]
    graph = helper.make_graph(made, "foreign", *ends, [tensor(name, array) for name, array in arrays.items()])
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


RNG = np.random.default_rng(0)
ARRAYS = {"w": RNG.normal(0, 0.5, (6, 3, 3, 3)), "b": RNG.normal(0, 1, 6), "ws": RNG.uniform(0.1, 0.2, (6, 1, 1, 1)),
          "zero": 0.0, "bits": 4.0, "as": 0.25, "gamma": RNG.normal(1, 0.2, 6), "beta": RNG.normal(0, 0.3, 6),
          "mean": RNG.normal(0, 1, 6), "var": RNG.uniform(0.5, 2, 6), "fc": RNG.normal(0, 0.3, (5, 36)),
          "fb": RNG.normal(0, 1, 5), "fs": 0.3, "shape": [1, -1]}
NODES = [("Quant", ["w", "ws", "zero", "bits"], "wq", {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}),
         ("Conv", ["x", "wq", "b"], "c", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 0], "strides": [1, 1]}),
         ("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], "n", {"epsilon": 1e-3}),
         ("Relu", ["n"], "r", {}),
         ("Quant", ["r", "as", "zero", "bits"], "a", {"signed": 0, "narrow": 0, "rounding_mode": "ROUND"}),
         ("MaxPool", ["a"], "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
         ("MaxPool", ["p"], "p2", {"kernel_shape": [2, 1 + 1], "strides": [1, 1]}),
         ("Flatten", ["p2"], "f", {}),
         ("BipolarQuant", ["fc", "fs"], "fq", {}),
         ("Gemm", ["f", "fq", "fb"], "y", {"transB": 1})]


def test_a_file_of_another_program(tmp_path):
    # channels first, flattened in that order, signed weights of 4 bits with a scale for each filter
    path = foreign(tmp_path / "net.onnx", NODES, ARRAYS, (1, 3, 8, 8), (1, 5))
    x = RNG.normal(0, 1, (6, 8, 8, 3)).astype(np.float32)
    net = bitnet.load(path)
    with bitnet.no_grad():
        found = net(x).data
        frozen = bitnet.freeze(net, (8, 8, 3))
    np.testing.assert_allclose(found, executed(path, x), atol=1e-5)
    assert not frozen.images and isinstance(net[0].weight_quantizer, quantizers.UniformWeight)
    assert isinstance(net[6], layers.Flatten) and net[7].bias is not None


def without(kind, **others):
    return [(one if one[0] != kind else (*one[:3], one[3] | others)) for one in NODES]


@pytest.mark.parametrize(("made", "words"), [
    ([*NODES[:-1], ("Softplus", ["f"], "y", {})], "node_y cannot be expressed by a layer: it is a Softplus"),
    (without("Conv", dilations=[2, 2]), "node_c (Conv): expected no dilation"),
    (without("Conv", auto_pad="SAME_UPPER"), "node_c (Conv): expected no dilation and padding in numbers"),
    (without("Gemm", alpha=2.0), "node_y (Gemm): expected x @ W + b"),
    (without("MaxPool", ceil_mode=1), "node_p (MaxPool): expected square windows"),
    (without("Quant", rounding_mode="FLOOR"), "node_wq rounds 'FLOOR'"),
    (NODES[:-3], "ends with"),
    (NODES[1:], "in the order of their work, found node_c"),
])
def test_what_layers_do_not_express_is_named(made, words, tmp_path):
    made = made if made != NODES[:-3] else NODES[:-2]
    path = foreign(tmp_path / "net.onnx", made, ARRAYS)
    with pytest.raises(ValueError) as error:
        bitnet.load(path)
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no such thing", b"\x08\x08" * 40])
def test_other_files(content, tmp_path):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.onnx: expected a network"):
        bitnet.load(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"none\.onnx: expected a network in ONNX, but it cannot be read"):
        bitnet.load(tmp_path / "none.onnx")


def test_numbers_that_a_file_claims_are_not_believed(tmp_path):
    path = foreign(tmp_path / "net.onnx", [("Mul", ["x", "as"], "y", {})], {"as": 2.0}, (1, 1 << 31), (1, 1 << 31))
    with pytest.raises(ValueError, match="at most 16,777,216 numbers"):
        bitnet.load(path)
    model = onnx.load(foreign(path, NODES, ARRAYS))
    model.graph.initializer[0].dims[0] = 1 << 40
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="expected a network"):
        bitnet.load(path)
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="in the file itself, found w elsewhere"):
        bitnet.load(path)


def test_files_damaged_by_chance(tmp_path):
    sound = exported(trained(CASES["own dorefa"]()), tmp_path / "net.onnx").read_bytes()
    rng = np.random.default_rng(0)
    for case in range(60):
        content = bytearray(sound)
        for _ in range(1 + case % 4):
            start = int(rng.integers(len(content)))
            content[start:start + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(0, 9)))
        (tmp_path / "net.onnx").write_bytes(content)
        try:
            bitnet.load(tmp_path / "net.onnx")
        except bitnet.storage.CheckpointError as error:
            assert str(error).isprintable() and len(str(error)) < 3000
