"""State files: whole or as they were, and one that cannot be read counts as not there."""

import pytest
from small import kinds, small_recipe

from openrlhf_agentprm.data.files import write_whole


@pytest.mark.parametrize("torn", ["", '{"mark": "', "[]", '{"mark": "a"}', "\udcff"])
def test_a_stage_whose_record_cannot_be_read_is_not_done(torn, stage_of, tmp_path):
    path = small_recipe(tmp_path)
    stage_of(f"import os; os.makedirs('{tmp_path}/run/policy0', exist_ok=True)")
    record = tmp_path / "run/state/policy0.json"
    assert kinds(path, last="policy0") == [("policy0", "done")]
    record.write_text(torn, errors="surrogateescape")
    assert kinds(path, last="policy0") == [("policy0", "done")]
    assert kinds(path, last="policy0") == [("policy0", "skipped")]


def test_what_a_full_disk_cuts_short_leaves_the_old_file(small_disk):
    path = small_disk / "demos.json"
    write_whole(path, "old")
    with pytest.raises(OSError, match="No space left|File too large"):
        write_whole(path, "new" * 100_000)
    assert path.read_text() == "old" and list(small_disk.iterdir()) == [path]


def test_a_stage_that_goes_on_leaves_its_note_alone(stage_of, tmp_path):
    path = small_recipe(tmp_path)
    stage_of(f"import os; os.makedirs('{tmp_path}/run/policy0', exist_ok=True)")
    begun = tmp_path / "run/state/policy0.begun"
    kinds(path, last="policy0")
    (tmp_path / "run/state/policy0.json").unlink()
    before = begun.stat()
    kinds(path, last="policy0")
    after = begun.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
