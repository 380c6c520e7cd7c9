"""The catalog: finds what there is, says what there is not, and never lets a component vanish."""

import subprocess
import sys

import pytest
import small_caches as caches

import gin
from castor import tasks
from castor.tasks import configuration
from castor.tasks.batches import catalog
from castor.tasks.cache import writer
from castor.tasks.cache.manifest import load_manifest
from castor.tasks.errors import CacheError, ConfigurationError, VocabularyError


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("out") / "tasks"
    for name in ("web", "code", "en/books"):
        caches.make_cache(directory / name, caches.make_records(6), name=name.split("/")[-1])
    writer.begin(str(directory / "half"))
    (directory / "other").mkdir()
    (directory / "other" / "manifest.json").write_text('{"kind": "corpus", "format": 1}')
    return str(directory)


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


def test_find_caches(tasks_dir):
    found = catalog.find_caches(tasks_dir)
    assert [(f.name, bool(f.manifest)) for f in found] == [
        ("code", True),
        ("en:books", True),
        ("half", False),
        ("web", True),
    ]
    assert "half-written" in found[2].problem
    assert [f.name for f in catalog.find_caches(f"{tasks_dir}/web")] == ["web"]
    assert catalog.find_caches(f"{tasks_dir}/nothing") == []


def test_names_directories_and_dictionaries(tasks_dir):
    for given, domains in (
        ("web", ["web"]),
        ("en:books", ["en:books"]),
        (f"{tasks_dir}/code", ["code"]),
        ({"web": 2, f"{tasks_dir}/en/books": 1}, ["web", "books"]),
        (tasks.Mixture("m", {"code": 1, "web": 0}), ["code", "web"]),
    ):
        assert list(tasks.resolve_mixture(given, tasks_dir).manifests()) == domains


def test_what_is_missing_is_named_with_the_remedy(tasks_dir):
    with pytest.raises(
        CacheError,
        match=f"mixture 'm': there is no task cache 'wep' in {tasks_dir}. Did you mean 'web'.*castor tasks list {tasks_dir}",
    ):
        tasks.resolve_mixture(tasks.Mixture("m", {"web": 1, "wep": 1}), tasks_dir)
    with pytest.raises(CacheError, match="half is half-written"):
        tasks.resolve_mixture("half", tasks_dir)
    with pytest.raises(CacheError, match="other is a corpus, not a task cache"):
        tasks.resolve_mixture("other", tasks_dir)
    with pytest.raises(CacheError, match="no task cache 'web' in the working directory"):
        tasks.resolve_mixture("web")


def test_bad_mixtures(tasks_dir):
    for bad in ({}, tasks.Mixture, 7, None):
        with pytest.raises(ConfigurationError):
            tasks.resolve_mixture(bad, tasks_dir)
    with pytest.raises(ConfigurationError, match="two components named 'web'"):
        tasks.resolve_mixture({"web": 1, f"{tasks_dir}/web": 1}, tasks_dir)


def test_the_mixture_of_five_from_gin():
    configuration.parse(configuration.Flags(("mixtures/five.gin",), ("VIDEO_WEIGHT = 0.5",)))
    value = gin.query_parameter("%MIXTURE_OR_TASK_NAME").scoped_configurable_fn()
    assert value.name == "five" and list(value.components) == ["web", "code", "image", "audio", "video"]
    assert value.components["video"] == 0.5
    with pytest.raises(CacheError, match="mixture 'five'.*'web'"):
        tasks.resolve_mixture("five")


def test_a_mixture_bound_in_gin_is_found_by_its_scope(tasks_dir):
    gin.parse_config("two/tasks.Mixture.components = {'web': 0.5, 'code': 0.5}")
    mixture = tasks.resolve_mixture("two", tasks_dir)
    assert mixture.name == "two" and list(mixture.components) == ["web", "code"]


def test_stages_and_weighting_from_gin(tasks_dir):
    gin.parse_config(
        """
        import castor.tasks.mixing.weights
        late/tasks.MixtureStage.start = 100
        late/tasks.MixtureStage.weights = {'web': 1}
        two/tasks.Mixture.components = {'web': 1, 'code': 2}
        two/tasks.Mixture.stages = (@late/tasks.MixtureStage(), (200, {'code': 1}, 50))
        two/tasks.Mixture.weighting = @tasks.weights.Temperature()
        tasks.weights.Temperature.temperature = 2
        """
    )
    mixture = tasks.resolve_mixture("two", tasks_dir)
    assert mixture.stages == (tasks.MixtureStage(100, {"web": 1}), tasks.MixtureStage(200, {"code": 1}, 50))
    manifests = mixture.manifests()
    (_, _, first), (start, ramp, second), (_, late_ramp, third) = mixture.weights(manifests)
    tokens = {name: manifest.tokens("train") for name, manifest in manifests.items()}
    assert float(first["code"] / first["web"]) == pytest.approx(2 * (tokens["code"] / tokens["web"]) ** 0.5)
    assert (start, ramp, late_ramp) == (100, 0, 50) and not second["code"] and not third["web"]


@pytest.mark.parametrize(
    "options, match",
    [
        ({"stages": ((5, {"image": 1}),)}, "'image', which is not a component"),
        ({"stages": ((5,),)}, "has a stage"),
        ({"stages": (5,)}, "has a stage"),
        ({"stages": ((0, {"web": 1}),)}, "Stage.start"),
        ({"weighting": "by feeling"}, "has weighting 'by feeling'"),
    ],
)
def test_bad_schedules(tasks_dir, options, match):
    with pytest.raises(ConfigurationError, match=match):
        tasks.Mixture("m", {"web": 1, "code": 1}, (tasks_dir,), **options)


def test_all_weights_zero(tasks_dir):
    for options in ({"components": {"web": 0}}, {"components": {"web": 1}, "stages": ((5, {"web": 0}),)}):
        with pytest.raises(ConfigurationError, match="are zero"):
            tasks.Mixture("m", cache_dirs=(tasks_dir,), **options).weights()


def test_the_vocabulary_is_found_where_it_was_or_beside_the_cache(tmp_path):
    vocabulary = caches.make_vocabulary()
    facts = {
        "path": str(tmp_path / "a/vocabulary"),
        "fingerprint": vocabulary.fingerprint,
        "size": vocabulary.vocab_size,
    }
    caches.make_cache(tmp_path / "a/tasks/web", [], name="web", vocabulary=facts)
    with pytest.raises(VocabularyError, match=str(tmp_path / "a/vocabulary")):
        catalog.find_vocabulary(load_manifest(str(tmp_path / "a/tasks/web")))
    vocabulary.save(str(tmp_path / "a/vocabulary"))
    assert catalog.find_vocabulary(load_manifest(str(tmp_path / "a/tasks/web"))) == str(tmp_path / "a/vocabulary")
    (tmp_path / "a").rename(tmp_path / "b")
    assert catalog.find_vocabulary(load_manifest(str(tmp_path / "b/tasks/web"))) == str(tmp_path / "b/vocabulary")
    caches.make_cache(tmp_path / "b/tasks/web", [], name="web", vocabulary={**facts, "fingerprint": "another"})
    with pytest.raises(VocabularyError, match="is not the vocabulary another"):
        catalog.find_vocabulary(load_manifest(str(tmp_path / "b/tasks/web")))


def test_public_names():
    assert all(getattr(tasks, name) for name in tasks.__all__)
    assert set(tasks.__all__) <= set(dir(tasks))
    with pytest.raises(AttributeError):
        assert tasks.nothing


def test_the_training_path_imports_nothing_heavy():
    program = (
        "import sys; from castor import tasks; tasks.Batches, tasks.Mixture, tasks.CacheReader, tasks.Vocabulary; "
        "import castor.tasks.cache.verify, castor.tasks.integrations.preview; "
        "print(sorted({'tensorflow', 'apache_beam', 'jax', 'seqio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_order_and_spelling_of_components_change_nothing_in_batches(tmp_path, monkeypatch):
    for number, name in enumerate(("web", "code", "image")):
        caches.make_cache(tmp_path / "tasks" / f"in-{name}", caches.make_records(9 + number), name=name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("tasks")
    spellings = [
        {"tasks/in-web": 3, "tasks/in-code": 2, "tasks/in-image": 1},
        {"./tasks/../tasks/in-image/": 1, f"{tmp_path}/tasks/in-web": 3, "link/in-code": 2},
    ]

    def read(components):
        batches = tasks.Batches(tasks.Mixture("m", components), 4, {"targets": 64})
        arrays = [{name: array.tobytes() for name, array in batches.batch(step).items()} for step in range(12)]
        return batches.domains, batches.fingerprint, arrays

    found = [read(components) for components in spellings]
    monkeypatch.chdir(tmp_path / "tasks")
    found.append(read({"in-code": 2, "in-image/": 1, "in-web": 3}))
    assert found[0][0] == ("code", "image", "web") and all(other == found[0] for other in found)
