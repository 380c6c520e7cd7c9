"""Packaging of Castor.

The folders launch/, train/, pipelines/ and tasks/ are installed as `castor.launch`, `castor.train`, `castor.pipelines`
and `castor.tasks`. The gin files are package data of `castor.gin`, a package without modules.
"""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
ROOMS = ["launch", "train", "pipelines", "tasks"]
PACKAGES = setuptools.find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])
GIN_FILES = sorted(str(path.relative_to(HERE / "gin")) for path in (HERE / "gin").rglob("*.gin"))

# The core: reading caches, mixing, batches, vocabularies, `castor tasks`. launch/extras.py finds the extra of
# any other module.
CORE = [
    "numpy",
    "pyarrow",
    "google-crc32c",
    "protobuf",
    # Vocabularies, and therefore token ids, are tested with 0.2.1. Code of 0.2.2 and later is generated for protobuf 7,
    # but Beam and TensorFlow require protobuf below 7, so `import seqio` fails.
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
# pillow and msgpack: `castor infer` decodes pictures as the data jobs do, in a sandbox.
TRAIN = ["jax", "flax", "optax", "orbax-checkpoint", "tensorboardX", "safetensors", "pillow", "msgpack"]
ALL = sorted({*DATA, *TRAIN, *SEQIO})

setuptools.setup(
    name="castor",
    version="0.1.0",
    description="Distributed data and training pipelines for multimodal pretraining: "
    "every batch a pure function of (mixture, seed, step).",
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
