"""Where the packages lie. Everything else about the project is in pyproject.toml.

kernels/ and datasets/ sit at the top of the repository, where a reader looks for them, but install inside
``bitnet``: as top-level packages they would overwrite other libraries' files of the same names.
"""

from setuptools import find_packages, setup

setup(
    package_dir={"bitnet": "bitnet", "bitnet.kernels": "kernels", "bitnet.datasets": "datasets"},
    packages=["bitnet", *(f"bitnet.{name}" for name in find_packages("bitnet")), "bitnet.kernels",
              *(f"bitnet.kernels.{name}" for name in find_packages("kernels")), "bitnet.datasets"],
)
