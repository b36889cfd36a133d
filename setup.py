"""Where the packages lie. Everything else about the project is in pyproject.toml.

kernels/ and datasets/ sit at the top of the repository, where a reader looks for them, but install inside
``bitnet``: as top-level packages they would overwrite other libraries' files of the same names.
"""

from setuptools import setup

setup(
    package_dir={"bitnet": "bitnet", "bitnet.kernels": "kernels", "bitnet.datasets": "datasets"},
    packages=["bitnet", "bitnet.quantizers", "bitnet.kernels", "bitnet.datasets"],
)
