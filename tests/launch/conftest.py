"""The small world of the train room's tests, for the commands here that train."""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location("train_world", pathlib.Path(__file__).parent.parent / "train" / "conftest.py")
_train = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_train)
castor, vocabulary, world = _train.castor, _train.vocabulary, _train.world
