"""Every layout people have becomes the same list, and every mistake is one sentence."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from ctray import storage
from ctray.data.image.picture import ImageError
from ctray.data.ingest.listing import (
    DataInput,
    FileRecord,
    Listing,
    list_folder,
    list_inputs,
    parse_input,
)
from ctray.data.ingest.listing import read_bytes as read_record
from ctray.errors import UserError

pytestmark = pytest.mark.fast


def make(root: Path, *names: str, **texts: str) -> Path:
    """Files with their own name as content; a keyword is a file of the root with that text."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for name, text in texts.items():
        (root / name.replace("_csv", ".csv")).write_text(text)
    return root


def dicom() -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows = dataset.Columns = 32
    dataset.PixelData = np.zeros((32, 32), np.uint8).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


def excel(path: Path, rows: list[tuple[object, ...]]) -> None:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)


def by_path(listing: Listing) -> dict[str, FileRecord]:
    return {file.path: file for file in listing.files}


def labels(listing: Listing) -> dict[str, str]:
    return {file.path: file.label for file in listing.files}


def masks(listing: Listing) -> dict[str, str]:
    return {file.path: file.mask for file in listing.files}


# --- folders -------------------------------------------------------------------------------


def test_a_folder_a_class_at_any_depth(tmp_path: Path) -> None:
    make(tmp_path, "b/2.PNG", "b/deep/er/1.jpg", "b/deep/notes.txt", "a/1.tiff", "a/.hidden.png")
    make(tmp_path, "README.md", "LICENSE", "DATA_CARD.md", "list.txt", "_cache/x.png")
    listing = list_folder(tmp_path)
    assert labels(listing) == {"a/1.tiff": "a", "b/2.PNG": "b", "b/deep/er/1.jpg": "b"}
    assert listing.classes == ("a", "b")
    assert listing.ignored == ("_cache/x.png", "b/deep/notes.txt", "list.txt")
    assert listing.roots == (str(tmp_path),)
    assert not listing.synthetic
    assert all(Path(file.uri).read_bytes() == file.path.encode() for file in listing.files)
    assert pickle.loads(pickle.dumps(listing)) == listing


def test_masks_travel_with_their_images(tmp_path: Path) -> None:
    make(tmp_path, "a/images/1.png", "a/images/2.png", "a/masks/1.bmp", "a/masks/9.png")
    make(tmp_path, "a/heat/1.png", "b/1.png", "b/masks/1.png", "SYNTHETIC")
    make(tmp_path, "a/images/p/3.png", "a/masks/p/3.png", "b/deep/4.jpg", "b/deep/masks/4.png")
    listing = list_folder(tmp_path)
    assert masks(listing) == {
        "a/images/1.png": str(tmp_path / "a/masks/1.bmp"),
        "a/images/2.png": "",
        "a/images/p/3.png": str(tmp_path / "a/masks/p/3.png"),
        "b/1.png": str(tmp_path / "b/masks/1.png"),
        "b/deep/4.jpg": str(tmp_path / "b/deep/masks/4.png"),
    }
    assert listing.ignored == ("a/heat/1.png",)
    assert listing.synthetic


def test_metadata_gives_group_source_split_and_the_rest(tmp_path: Path) -> None:
    text = (
        "\ufefffile,class,Patient_ID,source,split,Age,SEX,note\n"
        "a\\1.png,a,p1, here ,validation,44,F,\n"
        './b/1.png,b,,,,,,"one, two"\n'
        "b/gone.png,b,p2,,,,,\n"
    )
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", metadata_csv=text)
    files = by_path(list_folder(tmp_path))
    known = files["a/1.png"]
    assert (known.group, known.source, known.split) == ("p1", "here", "val")
    assert known.meta == {"age": "44", "sex": "F"}
    assert files["b/1.png"].meta == {"note": "one, two"}
    assert files["a/2.png"].group == ""


@pytest.mark.parametrize(
    ("columns", "group"),
    [("group_id,patient", "second"), ("PATIENT,group_id", "first"), ("patient_id,Group", "second")],
)
def test_the_group_column_is_the_most_certain_one(tmp_path: Path, columns: str, group: str) -> None:
    make(tmp_path, "a/1.png", metadata_csv=f"file,{columns}\na/1.png,first,second\n")
    (file,) = list_folder(tmp_path).files
    assert file.group == group
    assert len(file.meta) == 1, "the other column is kept"


def test_the_folder_and_the_table_must_agree_on_the_class(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", metadata_csv="file,class\na/1.png,A\nb/1.png,c\n")
    with pytest.raises(UserError, match=r"gives 'b/1\.png' the class 'c', its folder 'b'"):
        list_folder(tmp_path)
    listing = list_inputs([DataInput(str(tmp_path))], classes={"c": "b"})
    assert labels(listing) == {"a/1.png": "a", "b/1.png": "b"}
    assert not any(file.meta for file in listing.files)


def test_kaggles_excel_tables_give_the_source(tmp_path: Path) -> None:
    make(tmp_path, "COVID/images/COVID-1.png", "COVID/masks/COVID-1.png", "README.md.txt")
    make(tmp_path, "Normal/images/Normal-1.png", "Normal/images/Normal-2.png")
    make(tmp_path, "Normal odd/images/1.png")
    header = ("FILE NAME", "FORMAT", "SIZE", "URL")
    address = "https://www.GitHub.com/owner/repo/tree/master/png"
    excel(
        tmp_path / "COVID.metadata.xlsx", [header, ("COVID-1", "PNG", "256*256", address), (" ",)]
    )
    excel(
        tmp_path / "normal.xlsx",
        [header, ("NORMAL-1", "PNG", "", "https://a.org/b#c"), ("NORMAL-2.png", "", "", "my own")],
    )
    excel(tmp_path / "Normal odd.metadata.xlsx", [("FILE NAME", "Patient"), (1, 12)])
    listing = list_folder(tmp_path)
    files = by_path(listing)
    assert files["COVID/images/COVID-1.png"].source == "github.com/owner/repo"
    assert files["COVID/images/COVID-1.png"].meta == {"FORMAT": "PNG", "SIZE": "256*256"}
    assert files["COVID/images/COVID-1.png"].mask.endswith("COVID/masks/COVID-1.png")
    assert files["Normal/images/Normal-1.png"].source == "a.org/b"
    assert files["Normal/images/Normal-2.png"].source == "my own"
    assert files["Normal odd/images/1.png"].group == "12"
    assert listing.ignored == ()


def test_an_excel_table_must_fit(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    excel(tmp_path / "a.xlsx", [("FILE NAME",), ("z",)])
    with pytest.raises(UserError, match=r"a\.xlsx names no file here: it has 'z'.*'a/1\.png'"):
        list_folder(tmp_path)
    excel(tmp_path / "a.metadata.xlsx", [("FILE NAME",), ("1",)])
    with pytest.raises(UserError, match=r"two tables of class 'a'"):
        list_folder(tmp_path)
    (tmp_path / "a.metadata.xlsx").unlink()
    excel(tmp_path / "a.xlsx", [("name",), ("1",)])
    with pytest.raises(UserError, match=r"no column 'FILE NAME' \(has: name\)"):
        list_folder(tmp_path)
    (tmp_path / "a.xlsx").write_text("no workbook")
    with pytest.raises(UserError, match="not an Excel file"):
        list_folder(tmp_path)


def test_ready_made_splits_are_kept(tmp_path: Path) -> None:
    make(tmp_path, "Train/a/1.png", "Train/b/images/1.png", "Train/b/masks/1.png", "extra/x.png")
    make(tmp_path, "valid/a/1.png", "TEST/b/1.png", metadata_csv="file,group\nvalid/a/1.png,g\n")
    (tmp_path / "valid" / "b").mkdir()
    listing = list_folder(tmp_path)
    assert {file.path: (file.label, file.split) for file in listing.files} == {
        "TEST/b/1.png": ("b", "test"),
        "Train/a/1.png": ("a", "train"),
        "Train/b/images/1.png": ("b", "train"),
        "valid/a/1.png": ("a", "val"),
    }
    assert by_path(listing)["valid/a/1.png"].group == "g"
    assert by_path(listing)["Train/b/images/1.png"].mask
    assert listing.ignored == ("extra/x.png",)
    make(tmp_path, metadata_csv="file,split\nvalid/a/1.png,test\n")
    with pytest.raises(UserError, match=r"puts 'valid/a/1\.png' into 'test'.*'val'"):
        list_folder(tmp_path)


def test_split_folders_need_class_folders(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.png", "test/1.png")
    with pytest.raises(UserError, match=r"test has images outside class folders"):
        list_folder(tmp_path)
    make(tmp_path, metadata_csv="file,label\ntrain/a/1.png,x\ntest/1.png,y\n")
    assert {(file.label, file.split) for file in list_folder(tmp_path).files} == {
        ("x", "train"),
        ("y", "test"),
    }


def test_one_folder_called_test_is_a_class(tmp_path: Path) -> None:
    listing = list_folder(make(tmp_path, "test/1.png", "control/1.png"))
    assert listing.classes == ("control", "test")
    assert {file.split for file in listing.files} == {""}


def test_a_dicom_tree_needs_no_suffixes(tmp_path: Path) -> None:
    make(tmp_path, "a/p1/s1/x.dcm", "a/p1/s2/y.DICOM", "b/p2/notes.txt", "b/p2/README")
    for name in ("a/p1/s1/IM0001", "b/p2/1.2.840.10008.5", "b/DICOMDIR"):
        (tmp_path / name).write_bytes(dicom())
    listing = list_folder(tmp_path)
    assert labels(listing) == {
        "a/p1/s1/IM0001": "a",
        "a/p1/s1/x.dcm": "a",
        "a/p1/s2/y.DICOM": "a",
        "b/p2/1.2.840.10008.5": "b",
    }
    assert listing.ignored == ("b/DICOMDIR", "b/p2/README", "b/p2/notes.txt")


@pytest.mark.parametrize("column", ["label", "class"])
def test_a_table_labels_a_flat_folder_or_a_tree(tmp_path: Path, column: str) -> None:
    text = f"file,{column}\n1.png,x\nimages/2.dcm,y\n3.png,\n"
    make(tmp_path, "1.png", "images/2.dcm", "3.png", "deep/4.png", "masks/2.png", metadata_csv=text)
    listing = list_folder(tmp_path)
    assert labels(listing) == {"1.png": "x", "3.png": "", "deep/4.png": "", "images/2.dcm": "y"}
    assert listing.classes == ("x", "y")
    assert masks(listing)["images/2.dcm"] == str(tmp_path / "masks/2.png")


def test_wild_links_are_followed_but_no_folder_is_listed_twice(tmp_path: Path) -> None:
    make(tmp_path, "pool/1.png", "data/b/1.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "pool")
    assert [file.path for file in list_folder(tmp_path / "data").files] == ["a/1.png", "b/1.png"]
    (tmp_path / "pool" / "up").symlink_to(tmp_path / "pool")
    # Each of forty folders links to all the others: 2^40 ways through them.
    for number in range(40):
        (tmp_path / "data" / "b" / f"{number}").mkdir()
        for other in range(40):
            (tmp_path / "data" / "b" / f"{number}" / f"to{other}").symlink_to(f"../{other}")
    listing = list_folder(tmp_path / "data")
    assert [file.path for file in listing.files] == ["a/1.png", "b/1.png"]
    passed = storage.walk(str(tmp_path / "data")).passed
    assert len(passed) == 1 + 40 * 40
    assert passed[0] == ("a/up", "leads to a folder that is listed already")


def test_wild_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "data/a/1.png", "data/b/1.png", "else/1.png")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"a/up leads back to a folder it lies in"):
        list_folder(tmp_path / "data")


@pytest.mark.parametrize(
    ("names", "table", "sentence"),
    [
        (["1.png"], "", "has no class folders"),
        (["images/1.png", "masks/1.png"], "", "has no class folders"),
        (["a/1.png", "b/masks/1.png"], "", r"class 'b' has no image file in .*/b"),
        (["a/1.png"], "path,class\na/1.png,a\n\n", ""),
        (["a/1.png"], "image\na/1.png\n", r"no column 'file' \(has: image\): .*path=image"),
        (["a/1.png"], "x\na/1.png\n", r"\(has: x\): name the column with the file as path"),
        (["a/1.png"], "file\na/2.png\n", r"names no file here: it has 'a/2\.png'"),
        (["a/1.png"], "file,group\na/1.png,1\na/1.png,2\n", "twice, differently"),
        (["a/1.png"], "file,group\na/1.png,1,2\n", "row 2 has more fields"),
        (["a/1.png"], "file,file\na/1.png,1\n", "column 'file' twice"),
        (["a/1.png"], "file,group\n,1\n", "row 2 names no file"),
        (["a/1.png"], "file,split\na/1.png,fold 1\n", "split 'fold 1'"),
        (["1.txt"], "file,label\n1.txt,a\n", "has no image file"),
    ],
)
def test_a_mistake_in_a_folder_is_one_sentence(
    tmp_path: Path, names: list[str], table: str, sentence: str
) -> None:
    make(tmp_path, *names)
    if table:
        (tmp_path / "metadata.csv").write_text(table)
    if not sentence:
        assert list_folder(tmp_path).files
        return
    with pytest.raises(UserError, match=sentence) as caught:
        list_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"]
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_wild_tables_in_any_encoding_and_separator(
    tmp_path: Path, encoding: str, separator: str
) -> None:
    make(tmp_path, "a/ä.png", "b/1.png")
    rows = [
        ("file", "class", "note", "where"),
        ("a/ä.png", "a", '"x; y, z"', "Löwen"),
        ("b/1.png", "b", "", "", ""),  # ends with a separator
    ]
    text = "".join(separator.join(row) + "\r\n" for row in rows)
    (tmp_path / "metadata.csv").write_bytes(text.encode(encoding))
    assert by_path(list_folder(tmp_path))["a/ä.png"].meta == {"note": "x; y, z", "where": "Löwen"}


def test_wild_tables_as_excel_writes_them(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    text = "sep=;\r\nfile;patient;size[w,h];;\r\na/1.png;p1;3,4;;\r\n"
    (tmp_path / "metadata.csv").write_bytes(text.encode("cp1252"))
    known = by_path(list_folder(tmp_path))["a/1.png"]
    assert (known.group, known.meta) == ("p1", {"size[w,h]": "3,4"})


def test_wild_manifests_with_tabs(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "2.png")
    (tmp_path / "list.tsv").write_text("path\tlabel\n1.png\ta, b\n2.png\tc\n")
    assert labels(list_folder(tmp_path / "list.tsv")) == {"1.png": "a, b", "2.png": "c"}


@pytest.mark.parametrize("data", [b"PK\3\4\0\0", b"\x89PNG\r\n\x1a\n\0\1", b"\xff\xfef\0i"])
def test_wild_tables_that_hold_no_text_are_refused(tmp_path: Path, data: bytes) -> None:
    make(tmp_path, "a/1.png")
    (tmp_path / "metadata.csv").write_bytes(data)
    with pytest.raises(UserError, match=r"metadata\.csv is (not a text table|cut short)"):
        list_folder(tmp_path)


# --- manifests -----------------------------------------------------------------------------


def test_a_csv_manifest_lists_files_anywhere(tmp_path: Path) -> None:
    make(tmp_path, "lists/in/1.png", "out/2.png", "lists/m/1.png", "far/3.png", "lists/SYNTHETIC")
    rows = [
        "path,label,patient,split,source,mask,View",
        "in\\1.png,x,p1,Training,s,m/1.png,PA",
        "../out/2.png,y,,,,,",
        f"{tmp_path}/lists/m/1.png,,,,,,",
        f"file://{tmp_path}/far/3.png,y,,,,,",
        "gone.png,x,,,,,",
    ]
    make(tmp_path / "lists", m_csv="\n".join(rows))
    listing = list_inputs([DataInput(str(tmp_path / "lists/m.csv"))])
    far = str(tmp_path).lstrip("/")
    assert labels(listing) == {
        "gone.png": "x",
        "in/1.png": "x",
        "m/1.png": "",
        f"{far}/far/3.png": "y",
        f"{far}/out/2.png": "y",
    }
    assert by_path(listing)["in/1.png"] == FileRecord(
        path="in/1.png",
        uri=str(tmp_path / "lists/in/1.png"),
        label="x",
        group="p1",
        source="s",
        split="train",
        mask=str(tmp_path / "lists/m/1.png"),
        meta={"view": "PA"},
    )
    assert listing.synthetic
    assert read_record(by_path(listing)[f"{far}/out/2.png"].uri) == b"out/2.png"
    with pytest.raises(ImageError, match="cannot be opened") as caught:
        read_record(by_path(listing)["gone.png"].uri)
    assert caught.value.fault == "unreadable"


def test_a_parquet_manifest_with_other_column_names(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "2.png")
    columns = {"img": ["1.png", "2.png"], "dx": ["x", None], "who": [12.0, None], "age": [7, 8]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    given = [DataInput(str(tmp_path / "m.parquet"))]
    names = {"path": "img", "label": "dx", "group": "who"}
    files = by_path(list_inputs(given, columns=names))
    assert (files["1.png"].label, files["1.png"].group) == ("x", "12")
    assert (files["2.png"].label, files["2.png"].group) == ("", "")
    assert files["2.png"].meta == {"age": "8"}
    with pytest.raises(
        UserError, match=r"has no column 'path' \(has: img, dx, who, age\)"
    ) as caught:
        list_inputs(given)
    assert caught.value.arguments == ("column",)
    with pytest.raises(UserError, match=r"has no column 'label'"):
        list_inputs(given, columns={"path": "img"})
    with pytest.raises(UserError, match=r"the column 'whom' for group \(has: img, dx, who, age\)"):
        list_inputs(given, columns={**names, "group": "whom"})
    with pytest.raises(UserError, match=r"'patient' is not a column to map"):
        list_inputs(given, columns={"patient": "who"})


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "m.csv",
            "path,label\nx.png,a\ny.png,b\n",
            r"lists no file that is there, such as .*x\.png",
        ),
        ("m.csv", "path,label\n", "it has no rows"),
        ("m.csv", "path,label\n1.png,a\n./1.png,b\n", r"lists '1\.png' twice"),
        ("m.parquet", "text", "not a Parquet file"),
        ("m.txt", "text", "neither a folder nor a manifest"),
    ],
)
def test_a_mistake_in_a_manifest_is_one_sentence(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    make(tmp_path, "1.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        list_inputs([DataInput(str(tmp_path / name))])


# --- several inputs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source", "uri"),
    [
        ("data", "", "data"),
        ("rsna=data/x", "rsna", "data/x"),
        ("my set=s3://b/x?region=eu", "my set", "s3://b/x?region=eu"),
        ("s3://b/x?region=eu", "", "s3://b/x?region=eu"),
        ("./a=b", "", "./a=b"),
        ("C:\\x=y", "", "C:\\x=y"),
    ],
)
def test_an_input_may_be_named(text: str, source: str, uri: str) -> None:
    assert parse_input(text) == DataInput(uri, source)


@pytest.mark.parametrize("text", ["", "=data", "name=", " "])
def test_an_input_needs_a_place(text: str) -> None:
    with pytest.raises(UserError, match="is not an input"):
        parse_input(text)


def test_inputs_are_told_apart_and_their_classes_joined(tmp_path: Path) -> None:
    make(tmp_path, "one/data/covid/1.png", "one/data/n/1.png", "two/data/COVID/1.png")
    make(tmp_path, "three/data/viral/1.png", "three/data/n/1.png", "three/data/n/note.txt")
    text = "file,source,patient\nviral/1.png,theirs,p\nn/1.png,,p\n"
    make(tmp_path / "three/data", metadata_csv=text)
    listing = list_inputs(
        [
            DataInput(str(tmp_path / "one/data"), mapping={"covid": "COVID"}),
            DataInput(str(tmp_path / "two/data")),
            DataInput(str(tmp_path / "three/data"), "kaggle", {"viral": "pneumonia"}),
        ],
        classes={"n": "Normal", "pneumonia": "Viral"},
    )
    assert labels(listing) == {
        "data/covid/1.png": "COVID",
        "data/n/1.png": "Normal",
        "data-2/COVID/1.png": "COVID",
        "kaggle/n/1.png": "Normal",
        "kaggle/viral/1.png": "Viral",
    }
    assert listing.classes == ("COVID", "Normal", "Viral")
    assert listing.ignored == ("kaggle/n/note.txt",)
    viral = by_path(listing)["kaggle/viral/1.png"]
    assert (viral.source, viral.meta, viral.group) == ("kaggle", {"source": "theirs"}, "p")
    assert by_path(listing)["data/n/1.png"].source == ""


def test_a_store_is_found_not_listed(tmp_path: Path) -> None:
    make(tmp_path, "new/a/1.png", "old/shards/00000.arrow")
    (tmp_path / "old/store.json").write_text('{"classes": ["a", "c"], "synthetic": true}')
    inputs = [
        DataInput(str(tmp_path / "new")),
        DataInput(str(tmp_path / "old"), "first", {"c": "b"}),
    ]
    listing = list_inputs(inputs, classes={"b": "B"})
    assert [file.path for file in listing.files] == ["new/a/1.png"]
    (store,) = listing.stores
    assert (store.root, store.prefix, store.source) == (tmp_path / "old", "first/", "first")
    assert store.mapping == {"a": "a", "c": "B"}
    assert listing.classes == ("B", "a")
    assert listing.synthetic


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"Covid": "x"}, "mapping Covid=x names no class here: did you mean 'COVID'"),
        ({"zzz": "x"}, r"names no class here \(there are: COVID, Normal\)"),
        ({"Normal": ""}, "no name"),
        ({"Normal": "Covid"}, "'COVID' and 'Covid' differ in letter case only"),
    ],
)
def test_a_mapping_names_classes_that_are_there(
    tmp_path: Path, mapping: Mapping[str, str], sentence: str
) -> None:
    make(tmp_path, "COVID/1.png", "Normal/1.png")
    with pytest.raises(UserError, match=sentence):
        list_inputs([DataInput(str(tmp_path))], classes=mapping)
    with pytest.raises(UserError, match=sentence):
        list_inputs([DataInput(str(tmp_path), mapping=mapping)])


def test_the_group_is_read_from_the_path(tmp_path: Path) -> None:
    text = "file,group\na/p2-1.png,known\n"
    make(tmp_path, "a/p1-1.png", "a/p1-2.png", "a/p2-1.png", "b/other.png", metadata_csv=text)
    given = [DataInput(str(tmp_path))]
    for expression in (r"/(p\d+)-", r"p\d+"):
        files = by_path(list_inputs(given, group_regex=expression))
        assert [file.group for file in files.values()] == ["p1", "p1", "known", ""]
    with pytest.raises(UserError, match=r"matches no file, such as 'a/p1-1\.png'"):
        list_inputs(given, group_regex="patient")
    with pytest.raises(UserError, match=r"'\(' is not valid"):
        list_inputs(given, group_regex="(")


def test_inputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png")
    here = str(tmp_path)
    for inputs, sentence in [
        ([], "no input"),
        ([DataInput(here), DataInput(f"file://{here}")], "given twice"),
        ([DataInput(f"{here}/x")], "no such folder"),
        ([DataInput(f"{here}/x.csv")], "no such file"),
        ([DataInput("s3://key:word@bucket/x")], "holds a password"),
        ([DataInput("ftp://host/x")], "filesystem URI"),
        ([DataInput("file://host/x")], "names the machine 'host'"),
    ]:
        with pytest.raises(UserError, match=sentence):
            list_inputs(inputs)


# --- filesystem URIs -----------------------------------------------------------------------


def test_a_file_uri_is_the_folder(tmp_path: Path) -> None:
    make(tmp_path / "a folder", "x/1 #%20.png")
    listing = list_inputs([DataInput((tmp_path / "a folder").as_uri())])
    assert listing == list_folder(tmp_path / "a folder")
    assert read_record(listing.files[0].uri) == b"x/1 #%20.png"


def upload(folder: Path, uri: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        storage.write_bytes(
            storage.join(uri, path.relative_to(folder).as_posix()), path.read_bytes()
        )


def test_a_bucket_is_listed_like_a_folder(tmp_path: Path, bucket: str) -> None:
    make(tmp_path, "a/images/1 #%20é.png", "a/masks/1 #%20é.png", "b/1.png", "b/.hidden/2.png")
    make(tmp_path, metadata_csv="file,patient\nb/1.png,p1\n")
    (tmp_path / "b" / "IM0001").write_bytes(dicom())
    excel(tmp_path / "spare.xlsx", [("x",)])
    upload(tmp_path, bucket.format("data"))
    here, there = list_folder(tmp_path), list_inputs([DataInput(bucket.format("data"))])
    assert there.ignored == here.ignored == ("spare.xlsx",)
    assert labels(there) == labels(here)
    assert len(there.files) == 3
    for mine, theirs in zip(here.files, there.files, strict=True):
        assert theirs.uri.startswith("s3://bucket/data/")
        assert (theirs.group, bool(theirs.mask)) == (mine.group, bool(mine.mask))
        assert read_record(theirs.uri) == read_record(mine.uri)
    assert read_record(there.files[0].mask) == "a/masks/1 #%20é.png".encode()
    with pytest.raises(ImageError, match="cannot be opened"):
        read_record(bucket.format("data/b/none.png"))


def test_a_manifest_in_a_bucket_lists_files_here_and_there(tmp_path: Path, bucket: str) -> None:
    make(tmp_path, "here.png", "set/there.png")
    there = bucket.format("set/there.png")
    rows = ["path,label", f"../set/there.png,a\n{tmp_path}/here.png,b", "gone.png,a"]
    make(tmp_path, "lists/x.png").joinpath("lists", "m.csv").write_text("\n".join(rows))
    upload(tmp_path, bucket.format("m"))
    listing = list_inputs([DataInput(bucket.format("m/lists/m.csv"))])
    assert labels(listing) == {
        "bucket/m/set/there.png": "a",
        "gone.png": "a",
        str(tmp_path / "here.png").lstrip("/"): "b",
    }
    assert read_record(by_path(listing)["bucket/m/set/there.png"].uri) == b"set/there.png"
    make(tmp_path, m_csv=f"path,label\n{there.replace('set', 'm/set')},a\n")
    (remote,) = list_inputs([DataInput(str(tmp_path / "m.csv"))]).files
    assert remote.path == "bucket/m/set/there.png"
    with pytest.raises(UserError, match="no such folder"):
        list_inputs([DataInput(bucket.format("nothing"))])


def test_a_join_keeps_the_query_at_the_end() -> None:
    assert storage.join("s3://b/x/?region=eu", "y", "z z") == "s3://b/x/y/z%20z?region=eu"
    assert storage.join("/x/", "y z") == "/x/y z"
