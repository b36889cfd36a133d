"""Which kernels ran: the choice, the log, and bit-identical results whatever was chosen."""

import numpy as np
import pytest

from bitnet import Codes, Tensor, execution, models, no_grad, optimizers, random, use_kernels
from bitnet import functional as F
from bitnet.kernels.machine import threads
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight

ROLES = ("forward", "input_grad", "weight_grad")
INNER = models.INNER_LAYERS


def batch(size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((size, 40, 40, 3), np.float32), rng.integers(0, 10, size)


def step(model, images, labels):
    loss = F.softmax_cross_entropy(model(images), labels)
    loss.backward()
    return float(loss.data)


def logged_step(*args, size=2, **options):
    model = models.svhn(*args, **options)
    with execution.log() as records:
        step(model, *batch(size))
    return records


def by_place(records):
    found = {(record.layer, record.role): record for record in records}
    assert len(found) == len(records)  # nothing ran twice
    return found


@pytest.fixture(scope="module")
def records():
    with use_kernels("popcount"):
        return by_place(logged_step("A", (1, 2, 4)))


class TestModelA:
    """One training step of the network that all this is for."""

    def test_six_inner_layers_times_three_products_run_on_popcounts(self, records):
        integers = {place for place, record in records.items() if record.family == "popcount"}
        assert integers == {(layer, role) for layer in INNER for role in ROLES}

    def test_bits_of_the_operands(self, records):
        bits = {"forward": (2, 1), "input_grad": (4, 1), "weight_grad": (4, 2)}
        for layer in INNER:
            assert {role: records[layer, role].bits for role in ROLES} == bits

    def test_the_weight_gradient_of_one_pixel_says_what_it_is(self, records):
        notes = {place: record.note for place, record in records.items() if record.note}
        assert list(notes) == [("conv6", "weight_grad")]
        assert "float product of the scaled levels" in notes["conv6", "weight_grad"]

    def test_the_first_and_the_last_layer_are_float(self, records):
        floats = {place: record.bits for place, record in records.items() if record.family == "float32"}
        assert floats.pop(("conv0", "forward")) == (32, 32)
        assert set(floats) == {("conv0", "weight_grad"), *(("fc", role) for role in ROLES)}
        assert set(floats.values()) == {(32, 32)}

    def test_work_and_shapes(self, records):
        forward = [record for (_, role), record in records.items() if role == "forward"]
        assert sum(record.macs for record in forward) == 2 * 41_735_424
        assert records["conv3", "input_grad"].input_shape == (2, 9, 9, 64)
        assert records["conv3", "input_grad"].output_shape == (2, 7, 7, 128)
        for layer in INNER:
            assert len({records[layer, role].macs for role in ROLES}) == 1


@pytest.mark.parametrize("bits, expected", [
    ((1, 2, 32), {"forward": "popcount", "input_grad": "float32", "weight_grad": "float32"}),
    ((32, 2, 4), {"forward": "float32", "input_grad": "float32", "weight_grad": "popcount"}),
    ((1, 32, 4), {"forward": "float32", "input_grad": "popcount", "weight_grad": "float32"}),
    ((32, 32, 32), dict.fromkeys(ROLES, "float32")),
    ((8, 8, 8), dict.fromkeys(ROLES, "popcount")),
])
def test_a_product_runs_on_integers_where_both_operands_are_codes(bits, expected):
    with use_kernels("popcount"):
        records = by_place(logged_step("D", bits))
    for layer in INNER:
        assert {role: records[layer, role].family for role in ROLES} == expected


def test_layers_can_have_bits_of_their_own():
    with use_kernels("popcount"):
        records = by_place(logged_step("D", (1, 2, 4), overrides={"conv3": (3, 5, 32)}))
    assert records["conv3", "forward"].bits == (5, 3) and records["conv3", "forward"].family == "popcount"
    assert records["conv3", "input_grad"].family == "float32"
    assert records["conv4", "forward"].bits == (2, 1)


class TestUseKernels:
    operands = (Codes(np.ones((1, 5, 5, 3), np.uint8), 2, "unsigned", 1 / 3),
                Codes(np.ones((2, 2, 3, 4), np.uint8), 1, "bipolar"))

    def family(self):
        with execution.log() as records, no_grad():
            F.conv2d(*map(Tensor, self.operands))
        (record,) = records
        return record.family

    def test_a_family_is_forced_inside_the_block_only(self):
        outside = self.family()
        for name in execution.FAMILIES:
            with use_kernels(name):
                assert self.family() == name
        assert self.family() == outside

    def test_blocks_nest(self):
        outside = self.family()
        with use_kernels("float"):
            with use_kernels("popcount"):
                assert self.family() == "popcount"
            assert self.family() == "float"
            with use_kernels("auto"):
                assert self.family() == outside
            assert self.family() == "float"

    def test_an_error_ends_the_block_too(self):
        before = self.family()
        with pytest.raises(KeyError), use_kernels("float"):
            raise KeyError
        assert self.family() == before

    @pytest.mark.parametrize("name", ["avx512", "", None, "float32"])
    def test_unknown_families_are_refused(self, name):
        with pytest.raises(ValueError, match="kernels must be auto or one of"), use_kernels(name):
            pass


def test_nothing_is_logged_outside_the_block():
    with execution.log() as records:
        pass
    logged_step("D")
    assert records == []


def test_the_name_of_a_layer_ends_with_its_block():
    with execution.layer("outer"):
        with execution.layer("inner"):
            assert execution.current_layer() == "inner"
        assert execution.current_layer() == "outer"
    assert execution.current_layer() == ""


def test_a_watcher_hears_where_work_goes():
    heard = []
    with execution.layer("before"), execution.watch(lambda *place: heard.append(place)):
        with execution.layer("conv"):
            with execution.role("forward"):
                with execution.layer("inner"):
                    pass
        with pytest.raises(KeyError), execution.role("weight_grad"):
            raise KeyError
    with execution.layer("after"):
        pass
    assert heard == [("conv", ""), ("conv", "forward"), ("inner", ""), ("conv", "forward"), ("conv", ""), ("before", ""),
                     ("before", "weight_grad"), ("before", "")]


def test_backward_runs_in_the_layer_of_its_forward():
    x = Tensor(np.ones((1, 3), np.float32), requires_grad=True)
    with execution.layer("here"):
        y = F.relu(x)
    heard = []
    with execution.watch(lambda layer, role: heard.append(layer)):
        y.backward(np.ones((1, 3), np.float32))
    assert heard == ["here", ""]


def trained(family, count, steps, bits=(1, 2, 4)):
    """Weights and running statistics of model D after some steps, and the losses on the way."""
    before = threads.get_threads()
    threads.set_threads(count)
    try:
        random.seed(1)
        model = models.svhn("D", bits, seed=2)
        optimizer = optimizers.Adam(model.parameters(), 1e-2)
        losses = []
        with use_kernels(family):
            for i in range(steps):
                optimizer.zero_grad()
                losses.append(step(model, *batch(5, seed=i)))
                optimizer.step()
        return model.state_dict(), losses
    finally:
        threads.set_threads(before)


def assert_same_training(a, b):
    assert a[1] == b[1]
    assert a[0].keys() == b[0].keys()
    for name, array in a[0].items():
        np.testing.assert_array_equal(array, b[0][name], err_msg=name)


@pytest.fixture(scope="module")
def on_popcounts():
    return trained("popcount", 1, 20)


@pytest.mark.parametrize("family", [name for name in execution.FAMILIES if name != "popcount"] + ["auto"])
def test_twenty_steps_are_bit_identical_on_every_family(on_popcounts, family):
    assert_same_training(trained(family, 1, 20), on_popcounts)


@pytest.mark.parametrize("family", ["popcount", "float"])
def test_twenty_steps_are_bit_identical_on_any_number_of_threads(on_popcounts, family):
    assert_same_training(trained(family, 2, 20), on_popcounts)
    assert_same_training(trained(family, 3, 5), trained(family, 1, 5))


def test_training_moves_every_parameter(on_popcounts):
    # without this, bit-identity would also hold for a network that does not train
    initial = models.svhn("D", (1, 2, 4), seed=2).state_dict()
    for name, array in on_popcounts[0].items():
        assert (array != initial[name]).any(), name


@pytest.mark.parametrize("bits", [(8, 8, 8), (3, 1, 6)])
def test_wider_bits_are_bit_identical_too(bits):
    assert_same_training(trained("popcount", 2, 3, bits), trained("float", 1, 3, bits))


@pytest.mark.parametrize("bits", [(1, 1, 1), (1, 2, 4), (4, 3, 8)])
def test_products_of_codes_are_those_of_the_numbers_they_stand_for(bits):
    w_bits, a_bits, g_bits = bits
    rng = np.random.default_rng(0)
    x = DoReFaActivation(a_bits)(rng.random((3, 6, 7, 20), np.float32)).codes
    w = DoReFaWeight(w_bits)(rng.standard_normal((3, 3, 20, 9)).astype(np.float32)).codes
    g_real = rng.standard_normal((3, 6, 7, 9)).astype(np.float32)

    def gradients(x, w, quantizer):
        x, w = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
        random.seed(0)
        y = F.conv2d(x, w, padding="same", grad_quantizer=quantizer)
        y.backward(g_real if quantizer else DoReFaGradient(g_bits).encode(g_real).decode(np.float64))
        return y.data, x.grad, w.grad

    found = gradients(x, w, DoReFaGradient(g_bits))
    expected = gradients(x.decode(np.float64), w.decode(np.float64), None)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.abs(other).max())


def test_a_bias_gets_the_quantized_gradient():
    rng = np.random.default_rng(0)
    bias = Tensor(np.zeros(4, np.float32), requires_grad=True)
    weight = Tensor(np.zeros((1, 1, 3, 4), np.float32))
    g = rng.standard_normal((2, 5, 5, 4)).astype(np.float32)
    F.conv2d(rng.random((2, 5, 5, 3), np.float32), weight, bias, grad_quantizer=DoReFaGradient(2)).backward(g)
    random.seed(0)
    np.testing.assert_allclose(bias.grad, DoReFaGradient(2).encode(g).decode().sum(axis=(0, 1, 2)), rtol=1e-5)


def test_the_gradient_is_encoded_once_for_both_products():
    x = Tensor(np.random.default_rng(0).random((2, 5, 5, 3), np.float32), requires_grad=True)
    w = Tensor(np.ones((3, 3, 3, 4), np.float32), requires_grad=True)
    F.conv2d(x, w, grad_quantizer=DoReFaGradient(4)).backward(np.ones((2, 3, 3, 4), np.float32))
    assert random.get_state() == (0, 1)
