"""Exporting without the packages that it needs."""

import subprocess
import sys

HIDE = """
import sys
sys.modules["onnx"] = None
import bitnet
try:
    bitnet.export("net.onnx", bitnet.models.svhn("D"))
except ValueError as error:
    print(error)
"""


def test_without_onnx(tmp_path):
    done = subprocess.run([sys.executable, "-c", HIDE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "need the package onnx" in done.stdout and "bitnet-dorefa[onnx]" in done.stdout
    assert list(tmp_path.iterdir()) == []
