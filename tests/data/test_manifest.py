"""The columns of a store's tables are typed once, and stores from before them still open."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctray.data.manifest import (
    MANIFEST_COLUMNS,
    CandidateRow,
    DuplicateRow,
    ManifestRow,
    column_types,
    manifest_columns,
)
from ctray.data.store import DUPLICATES, INFO, MANIFEST, STAMP_KEY, Store, StoreInfo, version_stamp

pytestmark = pytest.mark.fast

KNOWN = StoreInfo(
    schema_version=2,
    ctray="0.1.0",
    version=1,
    classes=("A", "B"),
    size=64,
    fractions=(0.7, 0.15, 0.15),
    fingerprint="f" * 64,
    synthetic=True,
    ignored_files=(),
    inputs=("/data",),
    date="2026-01-01T00:00:00+00:00",
    confounds=("All 9 A images come from 'x'.",),
)


def make_store(root: Path, info: dict[str, object]) -> Path:
    root.mkdir()
    rows = pd.DataFrame([asdict(ManifestRow(id="1", label="A", split="train"))])
    stamp = version_stamp(KNOWN.version, KNOWN.fingerprint)
    table = pa.Table.from_pandas(rows).replace_schema_metadata({STAMP_KEY: stamp.encode()})
    pq.write_table(table, root / MANIFEST)
    pd.DataFrame(columns=list(column_types(DuplicateRow))).to_parquet(root / DUPLICATES)
    (root / INFO).write_text(json.dumps(info))
    return root


@pytest.mark.parametrize("row", [ManifestRow, CandidateRow, DuplicateRow])
def test_every_column_has_a_plain_type_and_a_meaning(row: type) -> None:
    assert set(column_types(row).values()) <= {str, int, float, bool}
    described = {
        name for kind in row.__mro__ for name in re.findall(r"^ +(\w+): ", kind.__doc__ or "", re.M)
    }
    assert described >= column_types(row).keys()
    assert len(column_types(row)) == len(row.__dataclass_fields__)


def test_the_page_on_data_names_every_column_of_the_manifest() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    assert [name for name in MANIFEST_COLUMNS if f"`{name}`" not in page] == []


def test_a_column_that_does_not_exist_cannot_be_asked_for() -> None:
    assert manifest_columns("id", "row") == ("id", "row")
    with pytest.raises(ValueError, match="no column 'lable'"):
        manifest_columns("id", "lable")


def test_a_store_keeps_the_confounds_that_were_found(tmp_path: Path) -> None:
    root = make_store(tmp_path / "store", asdict(KNOWN))
    assert StoreInfo.read(root) == KNOWN
    store = Store.open(root)
    assert store.confounds == KNOWN.confounds
    assert store.classes == ("A", "B")


def test_a_store_from_before_they_were_kept_opens_and_knows_none(tmp_path: Path) -> None:
    info = {name: value for name, value in asdict(KNOWN).items() if name != "confounds"}
    store = Store.open(make_store(tmp_path / "store", info))
    assert store.confounds == ()
    assert store.fingerprint == KNOWN.fingerprint
