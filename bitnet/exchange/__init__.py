"""Networks in files of other programs: ONNX, and QONNX (ONNX with nodes that round to a few bits).

    export("net.onnx", network)                  a frozen network, integers as integers; onnxruntime runs it as it is
    export("net.onnx", network, form="qonnx")    its layers, weights and activations rounded by Quant nodes
    load_onnx("net.onnx")                        a tree, of a file of QONNX or of a float one

Needs the extra ``onnx``.
"""

from bitnet.exchange.files import FORMS, export, load_onnx

__all__ = ["FORMS", "export", "load_onnx"]
