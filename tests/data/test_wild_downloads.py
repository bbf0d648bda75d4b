"""Well-known downloads are read as they come, and say what was taken as label, patient and view."""

import io
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from ctray.data.ingest.listing import Choice, DataInput, Listing, list_inputs
from ctray.data.ingest.prepare import Options, prepare
from ctray.data.store import Store
from ctray.errors import UserError
from ctray.synthetic.phantom import CLASSES, PhantomSpec, draw

SPEC = PhantomSpec(images_per_class=12, size=64, seed=5)


@cache
def drawn(number: int) -> np.ndarray:
    """A small synthetic radiograph, another one for every number below 48."""
    return draw(SPEC, CLASSES[number % 4], number // 4).image


def encoded(suffix: str, number: int) -> bytes:
    if suffix in (".dcm", ".dicom"):
        return dicom(drawn(number))
    return cv2.imencode(suffix, drawn(number))[1].tobytes()


def dicom(pixels: np.ndarray) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Modality, dataset.ViewPosition = "DX", "AP"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


def fill(root: Path, *names: str) -> Path:
    """Put an image, each another one, at each of these places."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(path.suffix, number % 48))
    return root


def table(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def listed(root: Path, *labels: str, layout: str = "", views: str = "frontal") -> Listing:
    return list_inputs([DataInput(str(root))], choice=Choice(layout, labels, views))


def classes(listing: Listing) -> dict[str, str]:
    """The class of each file that is used, by its name."""
    return {name_of(f.path): f.label for f in listing.files if f.status == "ok"}


def left_out(listing: Listing) -> dict[str, tuple[str, str]]:
    return {name_of(f.path): (f.status, f.reason) for f in listing.files if f.status != "ok"}


def patients(listing: Listing) -> dict[str, str]:
    return {name_of(f.path): f.group for f in listing.files if f.status == "ok"}


def splits(listing: Listing) -> dict[str, str]:
    return {name_of(f.path): f.split for f in listing.files if f.status == "ok"}


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


def said(listing: Listing, root: Path) -> list[str]:
    """The clauses of the sentence on how the only input was read."""
    (note,) = listing.notes
    return note.removeprefix(f"{root} is ").split("; ")


# ── NIH ChestX-ray14 ─────────────────────────────────────────────────────────────────────────────

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
NIH_ROWS = (
    "00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
    "00000001_001.png,Cardiomegaly|Effusion,1,1,058Y,M,PA,2894,2729,0.143,0.143,",
    "00000002_000.png,No Finding,0,2,81,F,PA,2500,2048,0.171,0.171,",
    "00000003_000.png,Pneumonia|Effusion,0,3,006M,F,AP,2500,2048,0.171,0.171,",
    "00000004_000.png,Pneumonia,0,4,40,M,AP,2500,2048,0.171,0.171,",
    "00000005_000.png,Pleural_Thickening,0,5,40,M,LL,2500,2048,0.171,0.171,",
    "00000006_000.png,No Finding,0,6,40,M,PA,2500,2048,0.171,0.171,",
)


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    names = ["00000001_000", "00000001_001", "00000002_000"]
    more = ["00000003_000", "00000004_000", "00000005_000", "00000099_000"]
    root = fill(
        tmp_path / "nih",
        *(f"images_001/images/{name}.png" for name in names),
        *(f"images_002/images/{name}.png" for name in more),
    )
    table(root / "Data_Entry_2017.csv", NIH_HEADER, *NIH_ROWS)
    table(root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,")
    table(root / "test_list.txt", "00000002_000.png", "00000004_000.png")
    table(root / "train_val_list.txt", "00000001_000.png", "00000001_001.png", "00000003_000.png")
    return root


@pytest.mark.fast
def test_wild_nih_takes_the_only_finding_as_the_class(nih: Path) -> None:
    listing = listed(nih)
    assert classes(listing) == {
        "00000001_000.png": "Cardiomegaly",
        "00000002_000.png": "No Finding",
        "00000004_000.png": "Pneumonia",
    }
    assert patients(listing) == {
        "00000001_000.png": "1",
        "00000002_000.png": "2",
        "00000004_000.png": "4",
    }
    assert splits(listing) == {
        "00000001_000.png": "train",
        "00000002_000.png": "test",
        "00000004_000.png": "test",
    }
    assert left_out(listing) == {
        "00000001_001.png": ("unlabelled", "it has several findings: Cardiomegaly, Effusion"),
        "00000003_000.png": ("unlabelled", "it has several findings: Pneumonia, Effusion"),
        "00000005_000.png": ("other view", "its view is LL, which is not frontal"),
        "00000099_000.png": ("unlabelled", "no row of a table names it"),
    }
    assert said(listing, nih) == [
        "read as NIH ChestX-ray14: label Finding Labels, patient Patient ID, view View Position, "
        "split test_list.txt and train_val_list.txt",
        "2 images with several findings left out",
        "1 lateral image left out",
        "1 image of 7 in the tables has no file here, such as '00000006_000.png'",
        "1 image here is in no table and left out, such as 'images_002/images/00000099_000.png'",
        "name a label to keep images with several findings",
    ]
    meta = {name_of(file.path): dict(file.meta) for file in listing.files}
    assert meta["00000001_000.png"] == {"age": "58", "sex": "M", "view": "PA", "follow-up": "0"}
    assert meta["00000003_000.png"]["age"] == "0"
    assert listing.classes == ("Cardiomegaly", "No Finding", "Pneumonia")


@pytest.mark.fast
def test_wild_nih_by_one_label(nih: Path) -> None:
    listing = listed(nih, "pneumonia")
    assert classes(listing) == {
        "00000001_000.png": "no Pneumonia",
        "00000001_001.png": "no Pneumonia",
        "00000002_000.png": "no Pneumonia",
        "00000003_000.png": "Pneumonia",
        "00000004_000.png": "Pneumonia",
    }
    assert "label Pneumonia of Finding Labels" in said(listing, nih)[0]
    assert set(classes(listed(nih, "No Finding")).values()) == {"No Finding", "Finding"}


@pytest.mark.fast
@pytest.mark.parametrize("beside", ["CAM", "Masks", "Grad-CAM", "heatmaps"])
def test_wild_what_was_made_of_the_images_is_not_taken_for_them(nih: Path, beside: str) -> None:
    fill(nih, f"{beside}/00000001_000.png", f"{beside}/00000002_000.png")
    paths = {file.path for file in listed(nih).files if file.status == "ok"}
    assert "images_001/images/00000001_000.png" in paths
    assert not any(path.startswith(beside) for path in paths)


@pytest.mark.fast
def test_wild_nih_by_several_labels(nih: Path) -> None:
    listing = listed(nih, "Effusion", "No Finding", "Pneumonia")
    assert classes(listing) == {
        "00000001_001.png": "Effusion",
        "00000002_000.png": "No Finding",
        "00000004_000.png": "Pneumonia",
    }
    assert "1 image with none of Effusion, No Finding, Pneumonia left out" in said(listing, nih)


@pytest.mark.fast
def test_wild_nih_all_views_and_labels_with_underscores(nih: Path) -> None:
    listing = listed(nih, "pleural thickening", views="all")
    assert classes(listing)["00000005_000.png"] == "Pleural_Thickening"


@pytest.mark.fast
def test_wild_nih_of_2020_in_one_folder_within_another(tmp_path: Path) -> None:
    root = fill(tmp_path, "CXR8/images/00000001_000.png", "CXR8/images/00000002_000.PNG")
    table(
        root / "CXR8/Data_Entry_2017_v2020.csv",
        NIH_HEADER.replace("Patient Gender", "Patient Sex"),
        NIH_ROWS[0],
        NIH_ROWS[2],
    )
    listing = listed(root)
    assert classes(listing) == {
        "00000001_000.png": "Cardiomegaly",
        "00000002_000.PNG": "No Finding",
    }
    assert [file.meta["sex"] for file in listing.files] == ["M", "F"]
    assert [file.split for file in listing.files] == ["", ""]


# ── RSNA Pneumonia ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def rsna(tmp_path: Path) -> Path:
    root = fill(
        tmp_path / "rsna",
        *(f"stage_2_train_images/000{n}-aaaa.dcm" for n in range(4)),
        "stage_2_test_images/0009-aaaa.dcm",
    )
    table(
        root / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        "0000-aaaa,264.0,152.0,213.0,379.0,1",
        "0000-aaaa,562.0,152.0,256.0,453.0,1",
        "0001-aaaa,,,,,0",
        "0002-aaaa,,,,,0",
        "0003-aaaa,,,,,0",
    )
    return root


@pytest.mark.fast
def test_wild_rsna_folds_the_boxes_of_a_file(rsna: Path) -> None:
    listing = listed(rsna)
    assert classes(listing) == {
        "0000-aaaa.dcm": "Pneumonia",
        "0001-aaaa.dcm": "no Pneumonia",
        "0002-aaaa.dcm": "no Pneumonia",
        "0003-aaaa.dcm": "no Pneumonia",
    }
    assert patients(listing)["0000-aaaa.dcm"] == "0000-aaaa"
    assert said(listing, rsna) == [
        "read as RSNA Pneumonia: label Target, patient patientId, view the DICOM files",
        "1 image here is in no table and left out, such as 'stage_2_test_images/0009-aaaa.dcm'",
    ]


@pytest.mark.fast
def test_wild_rsna_has_three_classes_with_its_second_table(rsna: Path) -> None:
    table(
        rsna / "stage_2_detailed_class_info.csv",
        "patientId,class",
        "0000-aaaa,Lung Opacity",
        "0000-aaaa,Lung Opacity",
        "0001-aaaa,Normal",
        "0002-aaaa,No Lung Opacity / Not Normal",
        "0003-aaaa,Normal",
    )
    assert set(classes(listed(rsna)).values()) == {
        "Lung Opacity",
        "Normal",
        "No Lung Opacity / Not Normal",
    }
    assert classes(listed(rsna, "Pneumonia"))["0002-aaaa.dcm"] == "no Pneumonia"


# ── CheXpert ─────────────────────────────────────────────────────────────────────────────────────

CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
SMALL = "CheXpert-v1.0-small"


def chexpert_row(path: str, view: str, **findings: str) -> str:
    columns = CHEXPERT_HEADER.split(",")[5:]
    values = [findings.get(column.replace(" ", "_"), "") for column in columns]
    position = "AP" if view == "Frontal" else ""
    return ",".join([f"{SMALL}/{path}", "Female", "68", view, position, *values])


@pytest.fixture
def chexpert(tmp_path: Path) -> Path:
    rows = (
        chexpert_row("train/patient00001/study1/view1_frontal.jpg", "Frontal", Pneumonia="1.0"),
        chexpert_row("train/patient00001/study1/view2_lateral.jpg", "Lateral", Pneumonia="1.0"),
        chexpert_row("train/patient00002/study1/view1_frontal.jpg", "Frontal", No_Finding="1.0"),
        chexpert_row(
            "train/patient00002/study2/view1_frontal.jpg", "Frontal", Edema="1.0", Pneumonia="-1.0"
        ),
        chexpert_row(
            "train/patient00003/study1/view1_frontal.jpg", "Frontal", Edema="1.0", Fracture="1.0"
        ),
        chexpert_row("train/patient00004/study1/view1_frontal.jpg", "Frontal"),
    )
    valid = chexpert_row(
        "valid/patient64541/study1/view1_frontal.jpg", "Frontal", Edema="1.0", Pneumonia="0.0"
    )
    paths = [row.partition(",")[0].removeprefix(f"{SMALL}/") for row in (*rows, valid)]
    root = fill(tmp_path / "chexpert", *paths)
    table(root / "train.csv", CHEXPERT_HEADER, *rows)
    table(root / "valid.csv", CHEXPERT_HEADER, valid)
    return root


def by_study(listing: Listing) -> dict[str, str]:
    return {f.path.partition("/")[2]: f.label for f in listing.files if f.status == "ok"}


@pytest.mark.fast
def test_wild_chexpert_in_a_folder_of_any_name(chexpert: Path) -> None:
    listing = listed(chexpert)
    assert by_study(listing) == {
        "patient00001/study1/view1_frontal.jpg": "Pneumonia",
        "patient00002/study1/view1_frontal.jpg": "No Finding",
        "patient64541/study1/view1_frontal.jpg": "Edema",
    }
    assert {file.group for file in listing.files} == {
        "patient00001",
        "patient00002",
        "patient00003",
        "patient00004",
        "patient64541",
    }
    # No image of valid.csv is trained on; the others are divided by patient.
    assert {file.group: file.split for file in listing.files} == {
        "patient00001": "",
        "patient00002": "",
        "patient00003": "",
        "patient00004": "",
        "patient64541": "val",
    }
    assert said(listing, chexpert) == [
        "read as CheXpert: label its 14 columns of findings, patient Path, "
        "view Frontal/Lateral and AP/PA, split train.csv and valid.csv",
        "blank counts as no, -1 as uncertain",
        "no test split is here, so that train is divided",
        "1 lateral image left out",
        "1 image with an uncertain finding left out",
        "1 image with several findings left out",
        "1 image without a label left out",
        "name a label to keep images with several findings",
    ]


@pytest.mark.fast
def test_wild_chexpert_by_a_label_leaves_out_what_is_uncertain(chexpert: Path) -> None:
    listing = listed(chexpert, "Pneumonia")
    assert by_study(listing) == {
        "patient00001/study1/view1_frontal.jpg": "Pneumonia",
        "patient00002/study1/view1_frontal.jpg": "no Pneumonia",
        "patient00003/study1/view1_frontal.jpg": "no Pneumonia",
        "patient64541/study1/view1_frontal.jpg": "no Pneumonia",
    }
    assert "1 image on which Pneumonia is uncertain left out" in said(listing, chexpert)


@pytest.mark.fast
@pytest.mark.parametrize(("one", "none"), [("1,0", "0,0"), ("1.00", "0.00"), ("True", "False")])
def test_wild_marks_are_read_however_a_spreadsheet_writes_them(
    chexpert: Path, one: str, none: str
) -> None:
    text = (chexpert / "train.csv").read_text().replace(",", ";")
    (chexpert / "train.csv").write_text(text.replace("-1.0", "-1").replace("1.0", one))
    found = by_study(listed(chexpert, "Pneumonia"))
    assert found["patient00001/study1/view1_frontal.jpg"] == "Pneumonia"
    assert found["patient00003/study1/view1_frontal.jpg"] == "no Pneumonia"
    text = (chexpert / "train.csv").read_text().replace(one, "yes")
    (chexpert / "train.csv").write_text(text)
    with pytest.raises(UserError, match="'yes', which is none of 1, 0, -1 and nothing"):
        listed(chexpert, "Pneumonia")


@pytest.mark.fast
def test_wild_chexpert_without_ap_or_pa_is_frontal(chexpert: Path) -> None:
    before = left_out(listed(chexpert, "Pneumonia"))
    text = (chexpert / "train.csv").read_text()
    (chexpert / "train.csv").write_text(text.replace(",Frontal,AP,", ",Frontal,nan,"))
    assert ",Frontal,nan," in (chexpert / "train.csv").read_text()
    assert left_out(listed(chexpert, "Pneumonia")) == before


@pytest.mark.fast
def test_wild_a_target_beside_class_folders_is_no_download(tmp_path: Path) -> None:
    fill(tmp_path, "COVID/1.png", "Normal/2.png")
    table(tmp_path / "outcomes.csv", "patientId,age,Target", "1,50,0", "2,40,1")
    assert listed(tmp_path).classes == ("COVID", "Normal")


@pytest.mark.fast
def test_wild_chexpert_from_the_folder_above_with_every_view(chexpert: Path) -> None:
    chexpert.rename(chexpert.parent / SMALL)
    listing = listed(chexpert.parent, views="all")
    assert len([file for file in listing.files if file.label == "Pneumonia"]) == 2
    assert {file.path for file in listing.files if file.meta["view"] == "Lateral"} == {
        f"{SMALL}/train/patient00001/study1/view2_lateral.jpg"
    }


# ── covid-chestxray-dataset ──────────────────────────────────────────────────────────────────────

COHEN_HEADER = (
    "patientid,offset,sex,age,finding,RT_PCR_positive,survival,view,modality,date,location,folder,"
    "filename,doi,url,license,clinical_notes,other_notes,"
)


def cohen_row(patient: str, finding: str, view: str, modality: str, name: str) -> str:
    return (
        f'{patient},0,M,65,{finding},Y,Y,{view},{modality},2020,"Town, Land",images,{name},,'
        f'https://www.example.org/a/b/c,,"one, two",,'
    )


@pytest.fixture
def cohen(tmp_path: Path) -> Path:
    rows = (
        cohen_row("2", "Pneumonia/Viral/COVID-19", "PA", "X-ray", "a.jpg"),
        cohen_row("2", "Pneumonia/Viral/COVID-19", "AP Supine", "X-ray", "b.jpg"),
        cohen_row("2", "Pneumonia/Viral/COVID-19", "L", "X-ray", "c.jpg"),
        cohen_row("3", "Pneumonia/Viral/SARS", "AP", "X-ray", "d.png"),
        cohen_row("4", "No Finding", "PA", "X-ray", "e.png"),
        cohen_row("5", "todo", "PA", "X-ray", "f.png"),
        cohen_row("6", "Pneumonia/Viral/COVID-19", "Axial", "CT", "g.png"),
        cohen_row("77", "Pneumonia/Viral/COVID-19", "Axial", "CT", "coronacases_001.nii.gz"),
    )
    files = (f"images/{name}" for name in ("a.jpg", "b.jpg", "c.jpg", *["d.png", "e.png"]))
    root = fill(tmp_path / "cohen", *files, "images/f.png", "images/g.png")
    fill(root, "annotations/lungVAE-masks/a_mask.png")
    table(root / "metadata.csv", COHEN_HEADER, *rows)
    return root


@pytest.mark.fast
def test_wild_covid_chestxray_frontal_radiographs_only(cohen: Path) -> None:
    listing = listed(cohen)
    assert classes(listing) == {
        "a.jpg": "Pneumonia/Viral/COVID-19",
        "b.jpg": "Pneumonia/Viral/COVID-19",
        "d.png": "Pneumonia/Viral/SARS",
        "e.png": "No Finding",
    }
    assert patients(listing) == {"a.jpg": "2", "b.jpg": "2", "d.png": "3", "e.png": "4"}
    assert said(listing, cohen) == [
        "read as covid-chestxray-dataset: label finding, patient patientid, view view",
        "1 lateral image left out",
        "1 image without a label left out",
        "1 image of the view Axial left out",
        "1 image of 8 in the tables has no file here, such as 'coronacases_001.nii.gz'",
    ]
    assert listing.files[1].source == "example.org/a/b"
    assert listing.ignored == ("annotations/lungVAE-masks/a_mask.png",)


@pytest.mark.fast
def test_wild_covid_chestxray_by_a_part_of_the_finding(cohen: Path) -> None:
    assert classes(listed(cohen, "covid-19")) == {
        "a.jpg": "COVID-19",
        "b.jpg": "COVID-19",
        "d.png": "no COVID-19",
        "e.png": "no COVID-19",
    }
    every = classes(listed(cohen, "Viral", views="all"))
    assert {name for name, label in every.items() if label == "Viral"} == {
        "a.jpg",
        "b.jpg",
        "c.jpg",
        "d.png",
        "g.png",
    }


# ── COVIDx ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def covidx(tmp_path: Path) -> Path:
    root = fill(
        tmp_path / "covidx",
        "train/COVID(0).png",
        "train/COVID (1).png",
        "train/00000006-x.png",
        "train/16663_1_1.jpg",
        "test/00000006-x.png",
    )
    table(
        root / "train_COVIDx9A.txt",
        "COVID 0 COVID(0).png COVID-19 sirm",
        "COVID 1 COVID (1).png COVID-19 sirm",
        "6 00000006-x.png normal rsna",
        "177 16663_1_1.jpg COVID-19 cohen",
        "8 gone.png pneumonia rsna",
    )
    table(root / "test_COVIDx9A.txt", "6 00000006-x.png pneumonia fig1")
    return root


@pytest.mark.fast
def test_wild_covidx_lists_have_no_header(covidx: Path) -> None:
    listing = listed(covidx)
    assert {f.path: (f.label, f.group, f.source, f.split) for f in listing.files} == {
        "train/COVID(0).png": ("COVID-19", "COVID 0", "sirm", "train"),
        "train/COVID (1).png": ("COVID-19", "COVID 1", "sirm", "train"),
        # The collections number their patients alike.
        "train/00000006-x.png": ("normal", "rsna 6", "rsna", "train"),
        "train/16663_1_1.jpg": ("COVID-19", "177", "cohen", "train"),
        "test/00000006-x.png": ("pneumonia", "fig1 6", "fig1", "test"),
    }
    assert said(listing, covidx) == [
        "read as COVIDx: label the third column, patient the first column, view not named, "
        "split test_COVIDx9A.txt and train_COVIDx9A.txt",
        "1 image of 6 in the tables has no file here, such as 'gone.png'",
    ]
    assert set(classes(listed(covidx, "COVID-19")).values()) == {"COVID-19", "no COVID-19"}


@pytest.mark.fast
def test_wild_covidx_of_two_versions_is_refused(covidx: Path) -> None:
    table(covidx / "train_COVIDx9B.txt", "6 00000006-x.png negative rsna")
    with pytest.raises(UserError, match=r"several versions of COVIDx .*9A.txt.*: keep one"):
        listed(covidx)


@pytest.mark.fast
def test_wild_covidx_cxr4_has_a_validation_split(tmp_path: Path) -> None:
    names = ("train/a.png", "val/b.png", "test/c.png")
    root = fill(tmp_path, *names)
    for name, label in zip(names, ("positive", "negative", "positive"), strict=True):
        split, _, file = name.partition("/")
        table(root / f"{split}.txt", f"{file} {file} {label} bimcv")
    assert splits(listed(root)) == {"a.png": "train", "b.png": "val", "c.png": "test"}


@pytest.mark.fast
def test_wild_covidx_without_its_test_list_is_divided(covidx: Path) -> None:
    (covidx / "test_COVIDx9A.txt").unlink()
    listing = listed(covidx)
    assert set(splits(listing).values()) == {""}
    assert "no test split is here, so that train is divided" in said(listing, covidx)


# ── VinDr-CXR ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fast
def test_wild_covidx_with_a_line_of_another_form_names_it(covidx: Path) -> None:
    text = (covidx / "train_COVIDx9A.txt").read_text()
    (covidx / "train_COVIDx9A.txt").write_text("patient file class source\n" + text)
    with pytest.raises(UserError, match="the line 'patient file class source' is not of the form"):
        listed(covidx)


@pytest.mark.fast
def test_wild_vindr_reads_its_readers_in_any_letter_case(tmp_path: Path) -> None:
    root = fill(tmp_path, "train/a.dicom", "train/b.dicom")
    rows = ["a,Cardiomegaly,R1", "a,No finding,R2", "a,Cardiomegaly,R3", "b,No finding,R1"]
    table(root / "train.csv", "image_id,class_name,rad_ID", *rows)
    assert classes(listed(root)) == {"a.dicom": "Cardiomegaly", "b.dicom": "No finding"}


@pytest.mark.fast
def test_wild_vindr_of_kaggle_by_the_majority_of_its_readers(tmp_path: Path) -> None:
    root = fill(tmp_path, *(f"train/{name}.dicom" for name in "abcd"), "test/z.dicom")
    table(
        root / "train.csv",
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        *(f"a,No finding,14,R{reader},,,," for reader in (8, 9, 10)),
        *(f"b,Cardiomegaly,3,R{reader},1,2,3,4" for reader in (8, 9)),
        "b,Cardiomegaly,3,R9,5,6,7,8",
        "b,No finding,14,R10,,,,",
        *(f"c,{label},1,R{n},1,2,3,4" for label in ("ILD", "Calcification") for n in (8, 9, 10)),
        "d,ILD,5,R8,1,2,3,4",
        "d,Atelectasis,1,R9,1,2,3,4",
        "d,No finding,14,R10,,,,",
    )
    listing = listed(root)
    assert classes(listing) == {"a.dicom": "No finding", "b.dicom": "Cardiomegaly"}
    assert [file.group for file in listing.files] == [""] * 5
    assert said(listing, root) == [
        "read as VinDr-CXR: label class_name, patient not named, view not named",
        "a finding counts where most readers name it",
        "1 image with several findings left out",
        "1 image with an uncertain finding left out",
        "1 image here is in no table and left out, such as 'test/z.dicom'",
        "name a label to keep images with several findings",
    ]
    assert classes(listed(root, "ILD")) == {
        "a.dicom": "no ILD",
        "b.dicom": "no ILD",
        "c.dicom": "ILD",
    }


@pytest.mark.fast
def test_wild_vindr_of_physionet_by_its_columns(tmp_path: Path) -> None:
    base = tmp_path / "vindr-cxr" / "1.0.0"
    fill(base, "train/a.dicom", "train/b.dicom", "test/c.dicom", "test/d.dicom")
    columns = "Cardiomegaly,Pneumonia,Other diseases,No finding"
    table(
        base / "annotations/image_labels_train.csv",
        f"image_id,rad_id,{columns}",
        *("a,R1,0,0,0,1", "a,R2,0,0,0,1", "a,R3,1,0,0,0"),
        *("b,R1,0,0,1,0", "b,R2,0,0,1,0", "b,R3,0,0,1,0"),
    )
    table(
        base / "annotations/image_labels_test.csv",
        "image_id,Cardiomegaly,Pneumonia,Other disease,No finding",
        "c,0,0,1,0",
        "d,0,0,0,1",
    )
    table(
        base / "annotations/annotations_train.csv",
        "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
        "a,R3,Cardiomegaly,1,2,3,4",
    )
    listing = listed(tmp_path)
    assert classes(listing) == {
        "a.dicom": "No finding",
        "b.dicom": "Other diseases",
        "c.dicom": "Other diseases",
        "d.dicom": "No finding",
    }
    assert splits(listing) == {
        "a.dicom": "train",
        "b.dicom": "train",
        "c.dicom": "test",
        "d.dicom": "test",
    }


# ── COVID-QU-Ex ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def covidqu(tmp_path: Path) -> Path:
    lungs = "Lung Segmentation Data/Lung Segmentation Data"
    infection = "Infection Segmentation Data/Infection Segmentation Data"
    places = [
        ("Train", "COVID-19", "covid_1.png"),
        ("Train", "Non-COVID", "non_COVID (1).png"),
        ("Train", "Normal", "Normal (1).png"),
        ("Val", "COVID-19", "covid_2.png"),
        ("Test", "Normal", "Normal (2).png"),
    ]
    root = fill(tmp_path / "covidqu", *(f"{lungs}/{s}/{c}/images/{name}" for s, c, name in places))
    fill(root, *(f"{lungs}/{s}/{c}/lung masks/{name}" for s, c, name in places))
    again = f"{infection}/Test/COVID-19"
    kinds = ("images", "lung masks", "infection masks")
    fill(root, *(f"{again}/{kind}/covid_1.png" for kind in kinds))
    return root


@pytest.mark.fast
def test_wild_covid_qu_ex_takes_no_image_twice(covidqu: Path) -> None:
    listing = listed(covidqu)
    assert classes(listing) == {
        "covid_1.png": "COVID-19",
        "covid_2.png": "COVID-19",
        "non_COVID (1).png": "Non-COVID",
        "Normal (1).png": "Normal",
        "Normal (2).png": "Normal",
    }
    assert splits(listing) == {
        "covid_1.png": "train",
        "covid_2.png": "val",
        "non_COVID (1).png": "train",
        "Normal (1).png": "train",
        "Normal (2).png": "test",
    }
    assert left_out(listing) == {
        "covid_1.png": ("duplicate", "it is in Lung Segmentation Data, too")
    }
    used = [file for file in listing.files if file.status == "ok"]
    assert all(file.mask == file.uri.replace("/images/", "/lung masks/") for file in used)
    assert said(listing, covidqu) == [
        "read as COVID-QU-Ex: label the folder, patient not named, view not named, "
        "split the folders Train, Val and Test",
        "1 image repeated from Lung Segmentation Data left out",
    ]
    alone = listed(covidqu / "Infection Segmentation Data")
    assert splits(alone) == {"covid_1.png": "test"}


# ── COVID-19 Radiography Database ────────────────────────────────────────────────────────────────


@pytest.fixture
def radiography(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    base = root / "COVID-19_Radiography_Dataset"
    for label in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        for kind in ("images", "masks"):
            fill(base, *(f"{label}/{kind}/{label}-{n}.png" for n in (1, 2)))
        book = openpyxl.Workbook()
        book.active.append(("FILE NAME", "FORMAT", "SIZE", "URL"))
        for n in (1, 2):
            book.active.append(
                (f"{label}-{n}", "PNG", "256*256", "https://sirm.org/category/covid-19/")
            )
        book.save(base / f"{label}.metadata.xlsx")
    table(base / "README.md.txt", "read me")
    return root


@pytest.mark.fast
def test_wild_radiography_database_within_its_archive(radiography: Path) -> None:
    listing = listed(radiography)
    assert listing.classes == ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
    assert classes(listing)["Viral Pneumonia-2.png"] == "Viral Pneumonia"
    assert all(Path(file.uri).is_file() and Path(file.mask).is_file() for file in listing.files)
    assert all(str(radiography / file.path) == file.uri for file in listing.files)
    assert listing.files[0].source == "sirm.org/category/covid-19"
    assert said(listing, radiography) == [
        "read as COVID-19 Radiography Database: label the folder, patient not named, view not named"
    ]
    one = listed(radiography, "Normal")
    assert one.classes == ("Normal", "no Normal")


# ── what they have in common ─────────────────────────────────────────────────────────────────────


@pytest.mark.fast
@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (Choice(labels=("Fracture",)), r"no label 'Fracture' here \(there are: Cardiomegaly, "),
        (Choice(layout="nhi"), r"no layout 'nhi' \(there are: nih, rsna, chexpert, "),
        (Choice(layout="chexpert"), r"is not CheXpert: it lacks a table with Path"),
        (Choice(views="side"), r"no views 'side': choose frontal or all"),
        (
            Choice(layout="folders", labels=("Pneumonia",)),
            r"is no download .* the label 'Pneumonia'",
        ),
    ],
)
def test_wild_downloads_mistakes_are_one_sentence(nih: Path, choice: Choice, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        list_inputs([DataInput(str(nih))], choice=choice)


@pytest.mark.fast
def test_wild_downloads_without_any_of_their_images_are_refused(tmp_path: Path) -> None:
    root = fill(tmp_path, "a/1.png", "b/2.png")
    table(root / "Data_Entry_2017.csv", NIH_HEADER, *NIH_ROWS)
    with pytest.raises(
        UserError, match=r"laid out as NIH .*'00000001_000.png'.*like 'a/1.png'"
    ) as caught:
        listed(root)
    assert caught.value.arguments == ("layout",)
    assert listed(root, layout="folders").classes == ("a", "b")


@pytest.mark.fast
def test_wild_downloads_give_every_file_without_a_row_its_reason(nih: Path) -> None:
    fill(nih, "images_001/x.dcm").joinpath("images_001/x.dcm").rename(nih / "images_001/I0001")
    (nih / "images_001/empty").touch()
    (nih / "images_001/a.gif").write_bytes(b"GIF89a")
    listing = listed(nih)
    out = left_out(listing)
    assert out["I0001"] == ("unlabelled", "no row of a table names it")
    assert out["empty"] == ("unreadable", "the file is empty")
    assert out["a.gif"][0] == "unreadable"
    assert "2 files that cannot be read left out" in said(listing, nih)


@pytest.mark.fast
def test_wild_a_part_of_a_download_names_the_folder_above(nih: Path, chexpert: Path) -> None:
    fill(nih, *(f"parts/part_{n}/0000000{n}_000.png" for n in (1, 2, 3)))
    for part in (chexpert / "train", nih / "parts"):
        with pytest.raises(UserError, match=f"lists these files, give {part.parent} as data"):
            listed(part)


@pytest.mark.fast
def test_wild_downloads_take_the_columns_that_are_named(nih: Path) -> None:
    columns = {"label": "Patient Gender", "group": "Follow-up #"}
    listing = list_inputs([DataInput(str(nih))], columns=columns)
    assert listing.classes == ("F", "M")
    assert "label Patient Gender, patient Follow-up #" in listing.notes[0]


@pytest.mark.fast
def test_wild_downloads_in_other_separators_and_encodings(nih: Path) -> None:
    path = nih / "Data_Entry_2017.csv"
    expected = classes(listed(nih))
    path.write_bytes(path.read_text().replace(",", ";").encode("utf-16"))
    assert classes(listed(nih)) == expected


@pytest.mark.fast
def test_wild_downloads_with_a_file_twice_keep_the_first(nih: Path) -> None:
    fill(nih, "images_002/small/00000001_000.png")
    listing = listed(nih)
    assert [f.path for f in listing.files if f.label == "Cardiomegaly"] == [
        "images_001/images/00000001_000.png"
    ]
    assert "1 further file of the same name left out" in said(listing, nih)


@pytest.mark.fast
def test_wild_folders_of_classes_are_not_taken_for_a_download(tmp_path: Path) -> None:
    root = fill(tmp_path, "COVID/images/1.png", "Normal/images/2.png")
    table(root / "metadata.csv", "file,patient_id", "COVID/images/1.png,p1")
    listing = listed(root)
    assert listing.notes == ()
    assert listing.classes == ("COVID", "Normal")


# ── the command ──────────────────────────────────────────────────────────────────────────────────


def ctray(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ctray", *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_wild_prepare_says_what_it_saw_and_keeps_what_it_left_out(tmp_path: Path) -> None:
    count = 40
    names = [f"{number:08d}_000.png" for number in range(count)]
    root = fill(tmp_path / "nih", *(f"images_001/images/{name}" for name in names))
    labels = ["No Finding", "Pneumonia", "Pneumonia|Effusion", "No Finding"]
    rows = [
        f"{name},{labels[n % 4]},0,{n // 2},050,M,{'LL' if n == 3 else 'PA'},9,9,0.1,0.1,"
        for n, name in enumerate(names)
    ]
    table(root / "Data_Entry_2017.csv", NIH_HEADER, *rows, NIH_ROWS[0].replace("1_", "9999_"))
    out = tmp_path / "store"
    strict = ctray("prepare", root, "--out", out, "--strict")
    assert strict.returncode == 2
    assert "1 image of 41 in the tables has no file here" in strict.stderr
    done = ctray("prepare", root, "--out", out, "--label", "Pneumonia")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{root} is read as NIH ChestX-ray14: label Pneumonia of ")
    assert "; 1 lateral image left out; 1 image of 41 in the tables has no file" in done.stdout
    store = Store.open(out)
    assert store.classes == ("Pneumonia", "no Pneumonia")
    manifest = store.manifest
    assert manifest["status"].value_counts().to_dict() == {"ok": count - 1, "other view": 1}
    usable = store.records("all")
    assert usable.groupby("patient")["split"].nunique().max() == 1
    assert usable["patient"].nunique() == count // 2
    report = json.loads((out / "report.json").read_text())
    assert report["records"]["left_out"] == 1
    assert report["info"]["read"][0] in done.stdout


def test_wild_left_out_images_are_not_read_and_can_be_appended(
    cluster: None, tmp_path: Path
) -> None:
    names = [f"{number:08d}_000.png" for number in range(12)]
    root = fill(tmp_path / "nih", *(f"images/{name}" for name in names))
    (root / "images" / names[0]).write_bytes(b"a lateral view that is no image")
    rows = [
        f"{name},{('No Finding', 'Pneumonia')[n % 2]},0,{n},050,M,{'PA' if n > 2 else 'L'},9,9,1,1,"
        for n, name in enumerate(names)
    ]
    table(root / "Data_Entry_2017.csv", NIH_HEADER, *rows)
    out = tmp_path / "store"
    store = prepare(listed(root), out, Options(size=32, strict=True))
    assert store.manifest["status"].value_counts().to_dict() == {"ok": 9, "other view": 3}
    store = prepare(listed(root, views="all"), out, Options(size=32), append=True)
    assert store.manifest["status"].value_counts().to_dict() == {"ok": 11, "unreadable": 1}
    assert pd.Series(store.manifest["path"]).is_unique
