"""Near duplicates of pictures: exactly the pairs within the distance, for any buckets; and the job on real bytes."""

import numpy as np
import pytest
import small_media
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines import image
from castor.pipelines.deduplication import duplicates_table, near_images
from castor.pipelines.deduplication.near_images import NearPictures
from castor.pipelines.deduplication.rules import ByBytes, node
from castor.pipelines.document import Document, document_id
from castor.pipelines.execution import launcher
from castor.tasks.errors import ConfigurationError


def document(number, value, **facts):
    return Document(
        document_id("test", str(number)),
        "memory",
        "image",
        None,
        b"x",
        {"perceptual_hash": f"{value:016x}", "detail": 30.0, **facts},
    )


def clusters(documents, rule):
    """Connected sets of ids, by the rule's own keys and links."""
    buckets = {}
    for d in documents:
        for key in rule.keys(d):
            buckets.setdefault(key, []).append((node(rule, d), rule.payload(d)))
    parent = {node(rule, d): node(rule, d) for d in documents}

    def root(x):
        while parent[x] != x:
            x = parent[x]
        return x

    for bucket in buckets.values():
        for a, b in rule.links(bucket):
            assert a > b
            parent[root(a)] = root(b)
    found = {}
    for x in parent:
        found.setdefault(root(x), set()).add(x)
    return {frozenset(x) for x in found.values()}


flips = st.lists(st.integers(0, 63), max_size=9)


@given(
    st.lists(st.tuples(st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]), flips), min_size=1, max_size=12),
    st.integers(0, 7),
    st.integers(1, 4),
)
def test_against_all_pairs(specification, distance, more):
    values = []
    for base, bits in specification:
        for bit in bits:
            base ^= 1 << bit
        values.append(base)
    rule = NearPictures(max_distance=distance, blocks=distance + more)
    documents = [document(i, value) for i, value in enumerate(values)]
    nodes = [node(rule, d) for d in documents]
    expected = [{x} for x in nodes]
    for i, a in enumerate(values):
        for j, b in enumerate(values[:i]):
            if (a ^ b).bit_count() <= distance:
                one, other = (next(g for g in expected if nodes[k] in g) for k in (i, j))
                if one is not other:
                    expected.remove(other)
                    one |= other
    assert clusters(documents, rule) == {frozenset(g) for g in expected}


def test_the_largest_stays_and_flat_pictures_are_exempt():
    rule = NearPictures()
    small, large = document(1, 5, width=10, height=10), document(2, 5, width=20, height=10)
    assert node(rule, large) < node(rule, small) and len(rule.keys(small)) == len(set(rule.keys(small))) == 84
    assert rule.keys(document(1, 5, detail=1.0)) == [] and rule.keys(Document("0" * 32, "s", "image")) == []


def test_a_bucket_beyond_reason_is_an_error(monkeypatch):
    monkeypatch.setattr(near_images, "MAX_DISTINCT", 3)
    with pytest.raises(ConfigurationError, match="over 3 different pictures.*Raise near_pictures.NearPictures.blocks"):
        list(NearPictures().links([(bytes([i]) * 24, bytes([i]) * 8) for i in range(5)]))
    with pytest.raises(ConfigurationError, match="more blocks than bits"):
        NearPictures(max_distance=9)


def test_image_job_with_near_duplicates(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        cells = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        pixels = np.kron(cells, np.ones((50, 50, 1), np.uint8))
        (folder / f"{i}.png").write_bytes(small_media.encode_picture(pixels, "PNG"))
        (folder / f"{i}-again.jpg").write_bytes(small_media.encode_picture(pixels, quality=40))
        (folder / f"{i}-small.jpg").write_bytes(small_media.encode_picture(pixels[::2, ::2].copy(), quality=70))
    rules = (ByBytes(), NearPictures())
    made = image.Job(
        name="t",
        input_root=str(folder),
        inputs=("*",),
        output=str(tmp_path / "out"),
        num_shards=1,
        filters=(),
        duplicates=rules,
    )
    manifest = launcher.run(made, quiet=True)
    assert manifest["funnel"]["kept"] == 3 and manifest["funnel"]["duplicates"] == {"image_near": 6}
    assert manifest["clusters"] == {"image_near": {"2": 3}}
    rows = list(duplicates_table.read(str(tmp_path / "out")))
    kept = {document_id("t", f"{i}{kind}") for i in range(3) for kind in (".png", "-again.jpg")}
    assert len(rows) == 6 and {row["survivor"] for row in rows} <= kept
