"""Folders, tables and names as they come from downloads, scanners, phones and network drives."""

import os
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from ctray import storage
from ctray.data.ingest.downloads.reading import Choice
from ctray.data.ingest.finding import find_images, image_key, masks_among
from ctray.data.ingest.groups import assign_splits, lacking_splits
from ctray.data.ingest.listing import DataInput, Listing, list_folder, list_inputs
from ctray.data.ingest.matching import Name, match_names
from ctray.errors import UserError

pytestmark = pytest.mark.fast

PIXELS = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)


def encoded(suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, PIXELS)[1])


def make(root: Path, *names: str, **tables: str) -> Path:
    """Files with their own name as content; a keyword is a table of the root with that text."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    for name, text in tables.items():
        (root / name.replace("_csv", ".csv")).write_text(text)
    return root


def rows(columns: str, values: Sequence[Sequence[str]]) -> str:
    return "\n".join([columns, *map(",".join, values)]) + "\n"


def groups(listing: Listing) -> dict[str, str]:
    return {file.path: file.group for file in listing.files if file.group}


# --- a table that matches in part ----------------------------------------------------------


def test_wild_a_table_that_matches_in_part_says_so(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{name}-{n}.png" for name in ("COVID", "Normal") for n in range(6)))
    named = [("COVID/COVID-0.png", "p0"), ("COVID/COVID-77.png", "p1"), ("x.png", "p2")]
    make(tmp_path, metadata_csv=rows("file,patient_id", named))
    listing = list_folder(tmp_path)
    assert groups(listing) == {"COVID/COVID-0.png": "p0"}
    assert listing.unmatched == listing.warnings
    assert listing.unmatched == (
        f"{tmp_path}: 2 rows of metadata.csv have no file here, such as 'COVID/COVID-77.png', and "
        "11 images have no row in it, such as 'COVID/COVID-1.png'",
    )


NAMES = {
    "COVID/COVID-1.png": "",
    "./COVID/COVID-1.png": "",
    "COVID\\COVID-1.png": "",
    "COVID//COVID-1.png": "spelling",
    "/COVID/COVID-1.png": "spelling",
    "COVID/x/../COVID-1.png": "spelling",
    "COVID/COVID%2D1.png": "spelling",
    "file:///COVID/COVID-1.png": "spelling",
    "covid/Covid-1.PNG": "letter case",
    "COVID/COVID-1": "suffix",
    "COVID/COVID-1.jpg": "suffix",
    "COVID/COVID-1.dcm.png": "suffix",
    "COVID-1.png": "folder",
    "covid-1": "folder",
    "images/COVID/COVID-1.png": "folder",
    "/home/her/data/COVID/COVID-1.png": "folder",
    "C:\\Users\\her\\COVID\\COVID-1.jpg": "folder",
    "https://a.org/set/COVID/COVID-1.png": "folder",
    "COVID/COVID 1.png": "punctuation",
    "COVID/COVID_001.png": "number of leading zeros",
}


@pytest.mark.parametrize("name", NAMES)
def test_wild_a_row_finds_its_file_as_a_person_would(tmp_path: Path, name: str) -> None:
    make(tmp_path, "COVID/COVID-1.png", "COVID/COVID-12.png", "Normal/Normal-1.png")
    every = [(name, "p1"), ("COVID/COVID-12.png", "p2"), ("Normal/Normal-1.png", "p3")]
    make(tmp_path, metadata_csv=rows("file,patient_id", every))
    listing = list_folder(tmp_path)
    assert groups(listing)["COVID/COVID-1.png"] == "p1"
    assert listing.unmatched == ()
    if not NAMES[name]:
        assert listing.warnings == ()
        return
    (said,) = listing.warnings
    assert f"1 row of metadata.csv matches a file only where the {NAMES[name]} may differ" in said
    assert "for 'COVID/COVID-1.png'" in said


@pytest.mark.parametrize(
    ("written", "file"),
    [
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
        (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "é.png")),
        ("a%20b.png", "a b.png"),
        ("a b.png", "a%20b.png"),
        ("a b.png", "a\u00a0b.png"),
        ("a b.png", "a  b.png"),
        ("ä.png", os.fsdecode(b"\xe4.png")),
        ("x.png", "x.JPG_"),
    ],
)
def test_wild_names_that_print_alike_are_one(written: str, file: str) -> None:
    matches = match_names([Name(f"c/{written}")], [f"c/{file}", "c/other.png"])
    assert matches.files == (f"c/{file}",)
    assert [one.text for one in matches.loose] == [f"c/{written}"]
    assert matches.unnamed == ("c/other.png",)


def test_wild_a_name_to_the_letter_comes_first() -> None:
    files = ["a/1.png", "a/1.PNG", "a/01.png"]
    names = [Name("a/1.PNG"), Name("a/1.png"), Name("A/1.png"), Name("a/1.png")]
    matches = match_names(names, files)
    assert matches.files == ("a/1.PNG", "a/1.png", None, "a/1.png")
    assert matches.loose == ()
    assert matches.ambiguous == (("A/1.png", ("a/1.PNG", "a/1.png")),)
    assert matches.unnamed == ("a/01.png",)


def test_wild_a_row_that_may_mean_two_files_means_none(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", "a/2.png", "b/3.png")
    make(tmp_path, metadata_csv="file,group\n1.png,p\na/2.png,q\nb/3.png,r\n")
    listing = list_folder(tmp_path)
    assert groups(listing) == {"a/2.png": "q", "b/3.png": "r"}
    (said,) = listing.unmatched
    assert "1 row of metadata.csv is passed over, such as '1.png', which may mean 'a/1.png'" in said
    make(tmp_path, metadata_csv="file,group\n1.png,p\n")
    with pytest.raises(UserError, match=r"which may mean 'a/1\.png' or 'b/1\.png': write there"):
        list_folder(tmp_path)


def test_wild_two_rows_for_one_file_leave_it_open() -> None:
    matches = match_names([Name("x.jpg"), Name("x.jpeg"), Name("y.png")], ["x.png", "y.png"])
    assert matches.files == (None, None, "y.png")
    assert dict(matches.ambiguous) == {"x.jpg": ("x.png",), "x.jpeg": ("x.png",)}
    # The stricter of two ways is the one that counts.
    matches = match_names([Name("X.png"), Name("x")], ["x.png"])
    assert matches.files == ("x.png", None)
    assert matches.missing == ("x",)


@pytest.mark.parametrize("name", ["COVID/2.png", "COVID/02", "set/covid/2.jpg", "COVID/images/2"])
def test_wild_a_row_takes_no_file_of_another_folder(name: str) -> None:
    files = ["x/COVID/1.png", "x/Normal/1.png", "x/Normal/2.png"]
    matches = match_names([Name("x/COVID/1.png"), Name(name)], files)
    assert matches.files == ("x/COVID/1.png", None)
    assert matches.missing == (name,)
    assert matches.unnamed == ("x/Normal/1.png", "x/Normal/2.png")


def test_wild_files_that_other_rows_mean_are_no_candidates() -> None:
    files = [f"p/patient{n:05}/1.png" for n in (0, 1, 2, 7, 8)]
    names = [Name(f"p/patient{n:05}/1.png") for n in range(6)]
    matches = match_names(names, files)
    assert matches.files == (*files[:3], None, None, None)
    assert dict(matches.ambiguous) == {
        f"p/patient{n:05}/1.png": (files[3], files[4]) for n in (3, 4, 5)
    }
    assert match_names(names, files[:4]).unnamed == (files[3],)
    assert match_names(names, files[:3]).missing == tuple(name.text for name in names[3:])


def test_wild_a_link_that_may_have_been_a_class_is_named(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "c").symlink_to(tmp_path / "gone")
    (said,) = list_folder(tmp_path).unmatched
    assert "1 link beside the class folders leads nowhere, such as 'c': the link leads to" in said


@pytest.mark.parametrize("name", ["Metadata.csv", "METADATA.CSV", "metadata.tsv"])
def test_wild_the_table_of_a_folder_may_be_called_otherwise(tmp_path: Path, name: str) -> None:
    make(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / name).write_text("file\tpatient\na/1.png\tp\nb/2.png\tq\n")
    assert groups(list_folder(tmp_path)) == {"a/1.png": "p", "b/2.png": "q"}


def test_wild_a_table_without_rows_is_said(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/2.png", metadata_csv="file,patient\n")
    (said,) = list_folder(tmp_path).unmatched
    assert "2 images have no row in metadata.csv" in said


def test_wild_drawings_are_counted_once(tmp_path: Path) -> None:
    make(tmp_path, "a/images/1.png", "a/cam/1.jpg", "b/1.png")
    (said,) = list_folder(tmp_path).unmatched
    assert "left out as a drawing of it" in said


def test_wild_numbers_and_addresses_as_spreadsheets_have_them_find_their_files() -> None:
    names = [Name("1.0"), Name("2.00"), Name("https://a.org/3.png?dl=1")]
    files = ["a/1.png", "a/2.png", "a/3.png"]
    assert match_names(names, files).files == tuple(files)


def test_wild_a_folder_without_images_beside_the_one_with_the_classes(tmp_path: Path) -> None:
    make(tmp_path, "wrapped/C/1.png", "wrapped/N/2.png", "docs/readme.txt")
    with pytest.raises(UserError, match=r"class 'docs' has no image file .*: give .*/wrapped if"):
        list_folder(tmp_path)


def test_wild_names_beside_the_data_that_are_not_utf8_do_not_matter(tmp_path: Path) -> None:
    make(tmp_path, os.fsdecode(b"n\xe9te.csv"), "set/a/1.png", "set/b/2.png")
    assert list_folder(tmp_path / "set").classes == ("a", "b")
    assert storage.files(str(tmp_path)) == [os.fsdecode(b"n\xe9te.csv")]
    assert storage.folders(str(tmp_path)) == ["set"]
    assert storage.files(str(tmp_path / "none")) == []


def test_wild_the_class_of_a_row_tells_files_of_one_name_apart(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", metadata_csv="file,label,group\n1.png,a,p\n1.png,b,q\n")
    assert groups(list_folder(tmp_path)) == {"a/1.png": "p", "b/1.png": "q"}


def test_wild_a_class_that_lost_all_its_files_is_named(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "2.png", metadata_csv="file,label\n1.png,a\n2.png,b\n3.png,c\n")
    listing = list_folder(tmp_path)
    assert listing.classes == ("a", "b")
    assert any("class 'c' of metadata.csv has no file here" in said for said in listing.unmatched)


def test_wild_a_sheet_that_matches_in_part_says_so(tmp_path: Path) -> None:
    make(tmp_path, "COVID/images/COVID-1.png", "COVID/images/COVID-2.png", "N/images/1.png")
    named = {"FILE NAME": ["covid-1", "COVID%2D2.PNG", "COVID-9"], "patient": ["p", "q", "r"]}
    pd.DataFrame(named).to_excel(tmp_path / "COVID.metadata.xlsx", index=False)
    listing = list_folder(tmp_path)
    assert groups(listing) == {"COVID/images/COVID-1.png": "p", "COVID/images/COVID-2.png": "q"}
    (said,) = listing.unmatched
    assert said.endswith("1 row of COVID.metadata.xlsx has no file here, such as 'COVID-9'")


def test_wild_a_manifest_finds_its_files(tmp_path: Path) -> None:
    make(tmp_path, "img/1.png", "img/2.png", "img/x/3.png", "img/4.png")
    lines = ["1.png,a", "IMG/2.PNG,b", "/home/u/img/x/3.jpg,a", "gone.png,b"]
    make(tmp_path, m_csv="\n".join(["path,label", *lines]))
    listing = list_inputs([DataInput(str(tmp_path / "m.csv"))])
    assert {file.path: file.label for file in listing.files} == {
        "gone.png": "b",
        "img/1.png": "a",
        "img/2.png": "b",
        "img/x/3.png": "a",
    }
    assert all(os.path.exists(file.uri) for file in listing.files if file.path != "gone.png")
    (lost,) = listing.unmatched
    assert "1 row of m.csv has no file here, such as 'gone.png'" in lost
    assert any("1 image below its folder has no row" in said for said in listing.warnings)
    assert any("'IMG/2.PNG' for 'img/2.png'" in said for said in listing.warnings)


# --- classes that print alike --------------------------------------------------------------


@pytest.mark.parametrize("other", ["Normal ", " Normal", "Normal\u00a0", "Nor\u200bmal"])
def test_wild_two_classes_that_print_alike_are_refused(tmp_path: Path, other: str) -> None:
    make(tmp_path, "Normal/1.png", f"{other}/2.png")
    with pytest.raises(UserError, match="print alike: spell both alike if they are one") as caught:
        list_folder(tmp_path)
    assert ascii(other) in str(caught.value)
    (tmp_path / "Normal").rename(tmp_path / "COVID")
    assert list_folder(tmp_path).classes == ("COVID", "Normal")


def test_wild_classes_of_tables_and_inputs_that_print_alike_are_refused(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "Neumonía") for form in ("NFC", "NFD")]
    make(tmp_path / "x", f"{forms[0]}/1.png", f"{forms[1]}/2.png")
    with pytest.raises(UserError, match="print alike"):
        list_folder(tmp_path / "x")
    make(tmp_path / "y", "1.png", "2.png")
    table = f"file,label\n1.png,{forms[0]}\n2.png,{forms[1]}\n"
    make(tmp_path / "y", metadata_csv=table)
    with pytest.raises(UserError, match="print alike"):
        list_folder(tmp_path / "y")
    make(tmp_path / "z", "a  b/1.png", "a b/2.png")
    with pytest.raises(UserError, match="print alike"):
        list_folder(tmp_path / "z")


# --- folders that are not classes ----------------------------------------------------------


def test_wild_images_beside_the_folder_images_are_taken_with_a_word(tmp_path: Path) -> None:
    make(tmp_path, "a/images/1.png", "a/2.png", "a/more/3.png", "a/cam/1.jpg", "b/1.png")
    listing = list_folder(tmp_path)
    assert [file.path for file in listing.files] == [
        "a/2.png",
        "a/images/1.png",
        "a/more/3.png",
        "b/1.png",
    ]
    assert listing.ignored == ("a/cam/1.jpg",)
    assert any("2 images of class 'a' lie beside its folder images" in w for w in listing.warnings)
    assert any("called like another in its folder images" in said for said in listing.unmatched)


def test_wild_images_outside_the_class_folders_are_named(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", "2.png", "_old/3.png")
    listing = list_folder(tmp_path)
    (said,) = listing.unmatched
    assert said.endswith("2 images lie outside the class folders and are left out, such as '2.png'")
    assert listing.ignored == ("2.png", "_old/3.png")


NOT_CLASSES = {
    "parts": [f"images_{n:03}/images/{n}_{m}.png" for n in (1, 2, 3) for m in range(3)],
    "parts of a split": [f"train/part{n}/{n}.png" for n in (1, 2)],
    "parts and a stray one": [*(f"images_{n:03}/{n}.png" for n in (1, 2, 3)), "extra/9.png"],
    "patients and a stray one": [*(f"patient{n}/{n}.png" for n in (1, 2, 3)), "other/9.png"],
    "batches": ["Batch 1/1.png", "Batch 2/2.png"],
    "patients": [f"train/patient{n:05}/study1/view1.jpg" for n in range(9)],
    "numbers": [f"{n:08}/1.dcm" for n in range(4)],
    "uids": [f"1.2.840.113619.2.{n}/1.dcm" for n in range(3)],
    "short names": [f"p{n}/1.dcm" for n in range(12)],
    "dates": ["2020-01-02/1.png", "2020-01-03/2.png"],
    "people": [f"{chr(65 + n)}oe^Jane/{n}.png" for n in range(24)],
}


@pytest.mark.parametrize("kind", NOT_CLASSES)
def test_wild_folders_that_are_not_classes_are_refused(tmp_path: Path, kind: str) -> None:
    files = NOT_CLASSES[kind]
    make(tmp_path, *files)
    with pytest.raises(UserError, match=r"not (as )?classes") as caught:
        list_folder(tmp_path)
    assert caught.value.arguments == ("layout",)
    assert len(list_inputs([DataInput(str(tmp_path))], choice=Choice("folders")).files)
    if "view1" in files[0] or files[0].endswith("/1.dcm"):
        return
    # With a table beside them it is the table that says the class.
    values = [(Path(name).stem, "xy"[n % 2], str(n)) for n, name in enumerate(files)]
    make(tmp_path, list_csv=rows("Image Index,Finding Label,Patient ID", values))
    with pytest.raises(UserError, match=r"the table .*list\.csv lists these files") as caught:
        list_folder(tmp_path)
    assert "path=Image Index, label=Finding Label, group=Patient ID" in str(caught.value)
    assert caught.value.arguments == ("column", "layout")
    columns = {"path": "Image Index", "label": "Finding Label", "group": "Patient ID"}
    listing = list_inputs([DataInput(str(tmp_path / "list.csv"))], columns=columns)
    assert len(listing.files) == len(files)
    assert listing.classes == ("x", "y")
    assert all(os.path.exists(file.uri) for file in listing.files)


@pytest.mark.parametrize(
    "names",
    [
        ["class_1", "class_2"],
        ["stage0", "stage1", "stage2", "stage3", "stage4", "stage5"],
        ["0", "1"],
        ["p1", "p2"],
        ["COVID-19", "COVID-2"],
        ["grade 1", "grade 2"],
        ["Typ A", "Typ B"],
        ["case", "control"],
    ],
)
def test_wild_classes_with_numbers_are_classes(tmp_path: Path, names: Sequence[str]) -> None:
    make(tmp_path, *(f"{name}/{name}-{n}.png" for name in names for n in range(3)))
    listing = list_folder(tmp_path)
    assert listing.classes == tuple(sorted(names))
    assert listing.warnings == ()
    # A table that agrees, or says something else than a class, changes nothing.
    values = [
        (f"{name}-{n}.png", f"{5 * n}0", "FM"[n % 2], name) for name in names for n in range(3)
    ]
    make(tmp_path, clinical_csv=rows("name,age,sex,diagnosis", values))
    assert list_folder(tmp_path).classes == tuple(sorted(names))


def test_wild_a_table_with_other_labels_than_the_folders_is_named(tmp_path: Path) -> None:
    make(tmp_path, "east/1.png", "east/2.png", "west/3.png", "west/4.png")
    make(tmp_path, labels_csv="name,label\n1,x\n2,y\n3,x\n4,y\n")
    with pytest.raises(
        UserError, match=r"'east' and 'west' do not go with the labels.*labels\.csv"
    ) as caught:
        list_folder(tmp_path)
    assert caught.value.arguments == ("column", "layout")
    sure = list_inputs([DataInput(str(tmp_path))], choice=Choice("folders"))
    assert sure.classes == ("east", "west")


@pytest.mark.parametrize("second", ["dataset2", "dataset (1)", "dataset - Copy", "dataset copy"])
def test_wild_two_copies_of_a_data_set_are_refused(tmp_path: Path, second: str) -> None:
    for name in ("dataset", second):
        make(tmp_path, *(f"{name}/{label}/{n}.png" for label in ("COVID", "N") for n in range(3)))
    with pytest.raises(UserError, match="each hold 'COVID' and 'N', which are the classes: give"):
        list_folder(tmp_path)


def test_wild_copies_by_their_files_and_a_copy_beside_the_classes_are_refused(
    tmp_path: Path,
) -> None:
    files = [f"{label}/{n}.png" for label in ("COVID", "N") for n in range(3)]
    make(tmp_path / "x" / "old", *files)
    shutil.copytree(tmp_path / "x" / "old", tmp_path / "x" / "new")
    with pytest.raises(UserError, match="each hold 'COVID' and 'N'"):
        list_folder(tmp_path / "x")
    make(tmp_path / "y", *files, *(f"backup/{name}" for name in files))
    with pytest.raises(UserError, match=r"'backup' of .* holds folders called like the classes"):
        list_folder(tmp_path / "y")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("set/set", "set (1)/set"),
        ("kaggle/data", "kaggle_old/data"),
        ("set/train", "set (1)/train"),
    ],
)
def test_wild_two_copies_within_further_folders_are_refused(
    tmp_path: Path, one: str, other: str
) -> None:
    files = [f"{label}/{n}.png" for label in ("COVID", "N") for n in range(3)]
    make(tmp_path, *(f"{place}/{name}" for place in (one, other) for name in files))
    with pytest.raises(UserError, match="each hold 'COVID' and 'N', which are the classes"):
        list_folder(tmp_path)


@pytest.mark.parametrize(("holder", "stray"), [("archive", "screenshots"), ("train", "test1")])
def test_wild_a_stray_folder_beside_the_one_with_the_classes_is_refused(
    tmp_path: Path, holder: str, stray: str
) -> None:
    make(tmp_path, f"{holder}/COVID/1.png", f"{holder}/Normal/2.png", f"{stray}/3.png")
    with pytest.raises(UserError, match=f"look like the classes.*give .*/{holder}$"):
        list_folder(tmp_path)


def test_wild_a_class_of_several_views_beside_a_flat_one_is_named(tmp_path: Path) -> None:
    make(tmp_path, "COVID/AP/1.png", "COVID/PA/2.png", "Normal/3.png")
    listing = list_folder(tmp_path)
    assert listing.classes == ("COVID", "Normal")
    assert any("'COVID' holds 'AP' and 'PA': if those are" in said for said in listing.warnings)


def test_wild_folders_that_each_hold_the_same_are_named(tmp_path: Path) -> None:
    make(tmp_path, "COVID/AP/1.png", "COVID/PA/2.png", "N/AP/3.png", "N/PA/4.png")
    listing = list_folder(tmp_path)
    assert listing.classes == ("COVID", "N")
    assert listing.unmatched == ()
    assert any("each hold 'AP' and 'PA': if those are" in said for said in listing.warnings)


@pytest.mark.parametrize("within", [("patient0", "patient1"), ("AP", "PA"), ("1", "2")])
def test_wild_classes_may_number_their_files_alike(tmp_path: Path, within: Sequence[str]) -> None:
    """Patients, views and numbers below each class are no copies: the files differ."""
    names = [f"{label}/{one}/{n}.png" for label in ("COVID", "N") for one in within for n in (0, 1)]
    assert list_folder(make(tmp_path, *names)).classes == ("COVID", "N")


@pytest.mark.parametrize("names", [["pT1", "pT2", "pT3"], ["CD4", "CD8", "NK"], ["T1a", "T2"]])
def test_wild_stages_and_cells_are_classes(tmp_path: Path, names: Sequence[str]) -> None:
    make(tmp_path, *(f"{name}/{name}-{n}.png" for name in names for n in range(3)))
    assert list_folder(tmp_path).classes == tuple(sorted(names))


def test_wild_a_table_of_the_folder_around_contradicts_nothing(tmp_path: Path) -> None:
    images = make(
        tmp_path / "images", *(f"sick/{n}.png" for n in (1, 2)), "well/3.png", "well/4.png"
    )
    make(tmp_path, labels_csv=rows("id,label", [(str(n), str(n % 2)) for n in range(1, 9)]))
    assert list_folder(images).classes == ("sick", "well")


@pytest.mark.parametrize("wrapping", ["dataset", "a/b", "images", "archive (1)/data"])
def test_wild_a_wrapped_folder_names_the_one_inside(tmp_path: Path, wrapping: str) -> None:
    from ctray.data.ingest.prepare import prepare

    make(tmp_path / "in", f"{wrapping}/COVID/1.png", f"{wrapping}/Normal/2.png", "README.md")
    with pytest.raises(UserError, match="class folder") as caught:
        prepare(list_folder(tmp_path / "in"), tmp_path / "out")
    assert f"give {tmp_path}/in/{wrapping}" in str(caught.value)
    assert list_folder(tmp_path / "in" / wrapping).classes == ("COVID", "Normal")


def test_wild_several_wrapped_inputs_are_refused(tmp_path: Path) -> None:
    make(tmp_path, *(f"{a}/{a}-set/{b}/1.png" for a in ("lisbon", "porto") for b in ("x", "y")))
    with pytest.raises(UserError, match=r"give .*lisbon/lisbon-set"):
        list_inputs([DataInput(str(tmp_path / name)) for name in ("lisbon", "porto")])


def test_wild_a_flat_folder_names_its_table(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "2.png", labels_csv="name,dx\n1,a\n2,b\n")
    with pytest.raises(UserError, match=r"labels\.csv lists these files.* path=name, label=dx"):
        list_folder(tmp_path)


SYSTEM = [
    "@eaDir",
    "$RECYCLE.BIN",
    "lost+found",
    "System Volume Information",
    "__MACOSX",
    "#recycle",
    ".Trash-1000",
]


@pytest.mark.parametrize("name", SYSTEM)
def test_wild_folders_of_the_system_are_left_out(tmp_path: Path, name: str) -> None:
    make(tmp_path, "a/1.png", "b/1.png", f"{name}/2.png", f"a/{name}/1.png/3.png")
    listing = list_folder(tmp_path)
    assert [file.path for file in listing.files] == ["a/1.png", "b/1.png"]
    assert (listing.classes, listing.ignored, listing.warnings) == (("a", "b"), (), ())
    (tmp_path / name).chmod(0)
    assert list_folder(tmp_path).classes == ("a", "b")
    (tmp_path / name).chmod(0o700)


def test_wild_a_stray_table_of_a_download_stops_nothing(tmp_path: Path) -> None:
    table = "Image Index,Finding Labels,Patient ID\n00000000_000.png,Pneumonia,0\n"
    make(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b" / "Data_Entry_2017.csv").write_text(table)
    listing = list_folder(tmp_path)
    assert listing.classes == ("a", "b")
    assert any("names none of the images here" in said for said in listing.warnings)
    with pytest.raises(UserError, match="has none of the images"):
        list_inputs([DataInput(str(tmp_path))], choice=Choice("nih"))


# --- every file by its first bytes ---------------------------------------------------------


def test_wild_every_file_is_found_by_its_first_bytes(tmp_path: Path) -> None:
    images = {
        "a/I00001": ".png",
        "a/1.2.840.113619.2.5": ".jpg",
        "a/x.jfif": ".jpg",
        "a/x.JPG_": ".jpg",
        "a/x.IMA": ".webp",
        "a/scan": ".bmp",
        "a/scan.tmp": ".tiff",
        "b/report.txt": ".png",
    }
    make(tmp_path, "b/1.png", "b/notes.txt", "b/list.csv", "b/Thumbs.db", "b/README", "b/x.json")
    make(tmp_path, "b/odd", "b/odd.bin", "b/lies.png")
    for name, suffix in images.items():
        make(tmp_path, name)
        (tmp_path / name).write_bytes(encoded(suffix))
    (tmp_path / "b/empty").touch()
    (tmp_path / "b/empty.png").touch()
    (tmp_path / "b/dangling").symlink_to("nowhere")
    (tmp_path / "b/dangling.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "b/pipe.png")
    listing = list_folder(tmp_path)
    read = {file.path for file in listing.files if file.status == "ok"}
    assert read == {*images, "b/1.png", "b/lies.png", "b/empty.png"}
    faults = {file.path: file.reason for file in listing.files if file.status == "unreadable"}
    assert faults == {
        "b/odd": "not an image: no PNG, JPEG, BMP, TIFF, WebP or DICOM header",
        "b/odd.bin": "not an image: no PNG, JPEG, BMP, TIFF, WebP or DICOM header",
        "b/empty": "the file is empty",
        "b/dangling": "the link leads to 'nowhere', which is not there",
        "b/dangling.png": "the link leads to 'nowhere.png', which is not there",
    }
    assert listing.ignored == (
        "b/README",
        "b/Thumbs.db",
        "b/list.csv",
        "b/notes.txt",
        "b/x.json",
    )
    assert any("'b/pipe.png', which is no regular file" in said for said in listing.warnings)


def test_wild_what_is_found_is_the_same_for_every_command(tmp_path: Path) -> None:
    make(tmp_path, "a/images/1.png", "a/masks/1.png", "a/masks/2.png", "a/README", "a/odd")
    found = find_images(str(tmp_path), storage.walk(str(tmp_path)).files)
    assert found.images == {"a/images/1.png", "a/masks/1.png", "a/masks/2.png"}
    assert found.others == ("a/README",)
    assert list(found.faults) == ["a/odd"]
    assert masks_among(found.images) == {"a/masks/1.png": "a/1", "a/masks/2.png": "a/2"}
    assert image_key("a/images/1.png") == "a/1"


def test_wild_a_file_that_cannot_be_opened_has_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a/1.png", "a/I1", "b/1.png")

    def refuse(uri: str) -> bytes:
        raise PermissionError(13, "Permission denied", uri)

    monkeypatch.setattr(storage, "read_starts", lambda uris, size: [b"" for _ in uris])
    monkeypatch.setattr(storage, "read_bytes", refuse)
    (fault,) = [file for file in list_folder(tmp_path).files if file.status != "ok"]
    assert fault.path == "a/I1"
    assert fault.reason == "the file cannot be opened: Permission denied"


def test_wild_a_name_that_is_not_utf8_is_escaped_and_read(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", "b/é.png")
    names = [b"\xe9.png", b"\xe8", b"\xff.txt"]
    for name in names:
        (tmp_path / "a" / os.fsdecode(name)).write_bytes(encoded(".png"))
    os.mkdir(os.fsencode(tmp_path) + b"/N\xe9e")
    (tmp_path / os.fsdecode(b"N\xe9e") / "1.png").write_bytes(encoded(".png"))
    listing = list_folder(tmp_path)
    assert listing.classes == ("N\\xe9e", "a", "b")
    odd = {file.path: file.uri for file in listing.files if "\\" in file.path}
    assert sorted(odd) == ["N\\xe9e/1.png", "a/\\xe8", "a/\\xe9.png", "a/\\xff.txt"]
    for path, uri in odd.items():
        assert uri.startswith("file:///"), path
        assert uri.encode().decode() == uri
        assert storage.read_bytes(uri) == encoded(".png")
        assert storage.plain(uri).endswith(path)


# --- splits given without a class ----------------------------------------------------------


def records(given: Mapping[str, Sequence[tuple[str, int]]], each: int = 1) -> pd.DataFrame:
    """{class: (split, number of groups)} as records, `each` of a group."""
    lines = [
        {
            "path": f"{label}/{split}/{n}/{m}",
            "label": label,
            "group": f"{label}-{split}-{n}",
            "given_split": split,
            "earlier_split": "",
            "status": "ok",
        }
        for label, parts in given.items()
        for split, number in parts
        for n in range(number)
        for m in range(each)
    ]
    return pd.DataFrame(lines)


def split_counts(table: pd.DataFrame, splits: pd.Series) -> dict[tuple[str, str], int]:
    keys = zip(table["label"], splits, strict=True)
    counted: dict[tuple[str, str], int] = {}
    for key in keys:
        counted[key] = counted.get(key, 0) + 1
    return counted


SHARES = (0.7, 0.15, 0.15)


def test_wild_a_class_without_val_is_lent_groups_of_train() -> None:
    table = records({"a": [("train", 20), ("val", 4), ("test", 4)], "b": [("train", 20)]}, each=2)
    splits, said = assign_splits(table, SHARES, given=True)
    counted = split_counts(table, splits)
    assert counted["a", "train"], counted["a", "val"] == (40, 8)
    assert counted["b", "val"] >= 2
    assert counted["b", "train"] + counted["b", "val"] == 40
    assert splits.groupby(table["group"]).nunique().max() == 1
    (sentence,) = said
    assert "class 'b' has no val records as given" in sentence
    assert lacking_splits(table.assign(split=splits), ["a", "b"]) == [
        "class 'b' has no test records: put more of its groups (patients) there, or no figure of "
        "that split is about it"
    ]


@pytest.mark.parametrize("groups_of_train", [2, 3, 40])
def test_wild_train_and_test_alone_get_a_val_of_every_class(groups_of_train: int) -> None:
    given = [("train", groups_of_train), ("test", 2)]
    table = records({"a": given, "b": given}, each=3)
    splits, said = assign_splits(table, SHARES, given=True)
    counted = split_counts(table, splits)
    for label in ("a", "b"):
        assert counted[label, "val"] >= 3
        assert counted[label, "train"] >= 3
        assert counted[label, "test"] == 6
    assert splits.groupby(table["group"]).nunique().max() == 1
    (sentence,) = said
    assert sentence.startswith("no val split is given:")
    assert lacking_splits(table.assign(split=splits), ["a", "b"]) == []


def test_wild_what_cannot_be_lent_is_named() -> None:
    table = records({"a": [("train", 1), ("test", 1)], "b": [("train", 1), ("test", 2)]})
    splits, said = assign_splits(table, SHARES, given=True)
    assert said == []
    assert lacking_splits(table.assign(split=splits), ["a", "b"]) == [
        "the store has no val records: no training can choose its best epoch by it"
    ]
    # A patient of two classes is not lent where one of them would be left without training.
    both = pd.concat(
        [
            records({"a": [("train", 3)]}),
            records({"a": [("train", 3)], "b": [("train", 3)]}).iloc[3:].assign(group="a-train-0"),
        ],
        ignore_index=True,
    )
    splits, _ = assign_splits(both, SHARES, given=True)
    assert set(splits[both["group"] == "a-train-0"]) == {"train"}
    assert set(splits) == {"train", "val"}


def test_wild_an_append_moves_nothing_to_val() -> None:
    table = records({"a": [("train", 6)], "b": [("train", 6)]})
    earlier = table.assign(earlier_split="train", given_split="")
    splits, said = assign_splits(earlier, SHARES, given=True)
    assert set(splits) == {"train"}
    assert said == []
