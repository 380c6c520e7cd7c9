"""Deduplication on real pages and pictures: the copies that occur in nature are found."""

import json
import tarfile

import numpy as np
import pytest

from castor.pipelines.deduplication.minhash import MinHash
from castor.pipelines.document import Document
from castor.pipelines.media.fingerprints import hamming, perceptual_hash
from castor.pipelines.media.images import decode_image
from castor.pipelines.readers.web_source import WebSource
from castor.pipelines.text.html import Extract

pytestmark = pytest.mark.real


def test_pages_that_are_near_duplicates_in_nature_meet(real_data):
    places = {}
    for line in (real_data / "web" / "index.jsonl").read_text().splitlines():
        row = json.loads(line)
        places[row["repo"], row["path"]] = f"web/{row['warc']}#offset={row['offset']}"
    rows = map(json.loads, (real_data / "web" / "near_duplicates.jsonl").read_text().splitlines())
    pairs = [tuple(places[row[k]["repo"], row[k]["path"]] for k in "ab") for row in rows if row["jaccard"] >= 0.8]
    wanted = {place for pair in pairs for place in pair}
    source = WebSource("real", str(real_data), tuple({place.partition("#")[0] for place in wanted}))
    found = [e for uri in source.files() for e in source.read(uri) if isinstance(e, Document) and e.source in wanted]
    keys = {page.source: set(MinHash().keys(Extract()(page))) for page in found}
    assert len(pairs) == 17 and keys.keys() == wanted
    assert all(keys[a] & keys[b] for a, b in pairs)


def test_one_picture_at_two_sizes_is_found_and_pictures_of_clothes_are_apart(real_data):
    hashes = {}
    for name in ("clothing-00000.tar", "openstax-anthropology-00000.tar"):
        with tarfile.open(real_data / "image" / name) as archive:
            members = [m for m in archive if m.name.endswith(".jpg")][: 40 if name.startswith("clothing") else 120]
            hashes[name] = [perceptual_hash(decode_image(archive.extractfile(m).read())) for m in members]
    clothes, photographs = (np.array(values, np.uint64) for values in hashes.values())
    assert np.bitwise_count(clothes[:, None] ^ clothes)[np.triu_indices(len(clothes), 1)].min() > 8
    same = [(a, b) for i, a in enumerate(photographs.tolist()) for b in photographs[:i].tolist() if hamming(a, b) <= 6]
    assert len(same) == 1 and hamming(*same[0]) == 0
