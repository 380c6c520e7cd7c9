"""Castor's packaging: the top-level folders are installed as `castor.launch`, `castor.train`, `castor.pipelines` and `castor.tasks`.

The gin files are the package data of `castor.gin`, which has no module of its own.
"""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
ROOMS = ["launch", "train", "pipelines", "tasks"]
PACKAGES = setuptools.find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])
GIN_FILES = sorted(str(path.relative_to(HERE / "gin")) for path in (HERE / "gin").rglob("*.gin"))

# The core: reading caches, mixing, batches, vocabularies, `castor tasks`. launch/extras.py says which extra each other module comes with.
CORE = [
    "numpy",
    "pyarrow",
    "google-crc32c",
    "protobuf",
    # Vocabularies, and so token ids, are promised for 0.2.1. From 0.2.2 on its code is generated for protobuf 7, while Beam
    # and TensorFlow hold protobuf below 7: `import seqio` then fails.
    "sentencepiece<0.2.2",
    "gin-config",
    "jinja2",
    "rich",
]
MEDIA = ["pillow", "av", "soundfile", "soxr"]
DATA = [
    "apache-beam[gcp]",
    "google-cloud-storage",
    "msgpack",
    "zstandard",
    "fastwarc",
    "resiliparse",
    "brotli",
    "charset-normalizer",
    "py3langid",
    "identify[license]",
    "webencodings",
    "pygments",
    *MEDIA,
]
SEQIO = ["seqio", "tensorflow", "tensorflow-text"]
# pillow and msgpack: pictures given to `castor infer` are decoded as those of the data jobs are, in a sandbox.
TRAIN = ["jax", "flax", "optax", "orbax-checkpoint", "tensorboardX", "safetensors", "pillow", "msgpack"]
ALL = sorted({*DATA, *TRAIN, *SEQIO})

setuptools.setup(
    name="castor",
    version="0.1.0",
    description="Distributed data and training pipelines for multimodal pretraining: every batch a pure function of (mixture, seed, step).",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*(f"castor.{package}" for package in PACKAGES), "castor.gin"],
    package_dir={f"castor.{room}": room for room in (*ROOMS, "gin")},
    package_data={
        "castor.gin": GIN_FILES,
        "": ["*.html", "*.json"],
        "castor.pipelines.core": ["wordlists/*.txt"],
        "castor.launch.engines": ["pom.xml", "Dockerfile"],
    },
    install_requires=CORE,
    extras_require={
        "data": DATA,
        "train": TRAIN,
        "seqio": SEQIO,
        "all": ALL,
        "tpu": ["jax[tpu]"],
        "gpu": ["jax[cuda12]"],
        "trafilatura": ["trafilatura", "lxml-html-clean"],
        "gcs": ["google-cloud-storage", "gcsfs"],
        "grain": ["grain"],
        "torch": ["torch"],
        "arrayrecord": ["array-record"],
        "huggingface": ["transformers>=5", "torch"],
        "dev": [
            "setuptools>=77",
            "ruff",
            "mypy",
            "pytest",
            "pytest-timeout",
            "hypothesis",
            "pandas",
            "duckdb",
            "gcsfs",
            "grain",
            "array-record",
            "libtpu; sys_platform == 'linux' and platform_machine == 'x86_64'",
        ],
    },
    entry_points={"console_scripts": ["castor = castor.launch.command:main"]},
)
