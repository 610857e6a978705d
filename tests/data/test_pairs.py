"""Preference pairs on disk: what is written is read, and nothing else is taken for them."""

import math

import pyarrow.parquet as pq
import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.pairs import PAIRS_SCHEMA, Pair, PairsSidecar, read_pairs
from openrlhf_agentprm.data.sidecar import Sidecar, read_about, read_labels, table_of

PAIRS = [Pair("a", 0, "b", 0, 0.5, 1.0), Pair("c", 2, "a", 2, 0.25, 0.0)]


def test_pairs_come_back_as_they_were_with_how_they_were_made(tmp_path):
    PairsSidecar.of(PAIRS, {"seconds": 1.0}, {"pairs": 2}).save(tmp_path, {"method": "relabel"})
    assert read_pairs(tmp_path) == PAIRS
    assert pq.read_table(tmp_path / "pairs.parquet").schema.names == PAIRS_SCHEMA.names
    assert read_about(tmp_path) == {"method": "relabel", "cost": {"seconds": 1.0}, "figures": {"pairs": 2}, "kind": "pairs"}
    PairsSidecar.of([], {}, {}).save(tmp_path, {"method": "relabel"})
    assert read_pairs(tmp_path) == []


def test_pairs_and_targets_are_not_taken_for_each_other(tmp_path):
    PairsSidecar.of(PAIRS, {}, {}).save(tmp_path, {"method": "relabel"})
    with pytest.raises(UserError, match="holds preference pairs, where targets of turns are wanted"):
        read_labels(tmp_path)
    Sidecar(table_of(["a"], [0], [0.5], [True], [1.0])).save(tmp_path, {"method": "mc_visits"})
    assert read_labels(tmp_path) == {"a": ([0.5], [1.0])} and not (tmp_path / "pairs.parquet").exists()
    with pytest.raises(UserError, match="holds targets of turns, where preference pairs are wanted"):
        read_pairs(tmp_path)
    with pytest.raises(UserError, match="holds no finished labels"):
        read_pairs(tmp_path / "none")


def test_what_cannot_be_a_pair_is_told_row_by_row(tmp_path):
    bad = [
        Pair("a", 0, "a", 0, 0.5, 1.0),
        Pair("a", 0, "b", 0, 0.0, 1.0),
        Pair("a", 0, "b", 0, math.nan, 1.0),
        Pair("a", 0, "b", 0, 0.5, -1.0),
        Pair("a", -1, "b", 0, 0.5, 1.0),
    ]
    PairsSidecar.of([*PAIRS, *bad], {}, {}).save(tmp_path, {"method": "relabel"})
    with pytest.raises(UserError) as raised:
        read_pairs(tmp_path)
    assert [p.partition(": ")[2][:5] for p in raised.value.problems] == [f"row {row}" for row in range(2, 7)]
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="make them again"):
        read_pairs(tmp_path)
