"""A seed is a result: a training ends in the same bits whatever BLAS and NumPy make of a processor."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib, sys
import numpy as np
from bitnet import methods, models
from bitnet.datasets import Dataset
from bitnet.training import Trainer

rng = np.random.default_rng(0)
digest = hashlib.sha256()
for model, shape in ((models.svhn("D", (1, 2, 4)), (40, 40, 3)), (models.svhn("D", (32, 32, 32)), (40, 40, 3)),
                     (methods.build("ttq"), (28, 28, 1)), (methods.build("staircase", "svhn", model="D"), (40, 40, 3))):
    data = Dataset(rng.integers(0, 256, (32, *shape), np.uint8), np.arange(32) % 10, tuple("0123456789"), "noise")
    trainer = Trainer(model, data, data, epochs=1, batch_size=16, **methods.training_of(model))
    trainer.run()
    for value in (*model.state_dict().values(), np.float64(trainer.history[0]["test_loss"])):
        digest.update(np.ascontiguousarray(value))
print(digest.hexdigest())
"""
UNITS = "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"  # NumPy's names of what it makes use of beyond the least


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names of x86 processors")
def test_training_depends_on_no_library():
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("OPENBLAS", "NPY"))}
    found = {}
    for name, other in {"as it is": {}, "Haswell's BLAS": {"OPENBLAS_CORETYPE": "Haswell"},
                        "no vector units": {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": UNITS}}.items():
        result = subprocess.run([sys.executable, "-c", PROGRAM], env=plain | other, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        found[name] = result.stdout
    assert len(set(found.values())) == 1, found
