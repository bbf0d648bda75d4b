"""The running service over HTTP: real Ray, real HAProxy, `serve deploy`, an untrained model."""

import concurrent.futures
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from serve_cluster import DEPLOYED
from serve_kit import CLASSES, answers, dicom, png, wait_for

import serve
from ctray.artefact.bundle import Bundle
from ctray.data.image.dispatch import decode_image
from ctray.data.image.picture import ImageError
from ctray.engine.predictor import Predictor
from ctray.process import free_port
from serve.schema import ModelReply, PredictReply
from serve.settings import AppSettings

BODY_TIMEOUT_S = 2.0
MAX_BODY_BYTES, MAX_FILES = AppSettings().max_body_bytes, AppSettings().max_files
PNG = {"content-type": "image/png"}


@dataclass(frozen=True)
class Service:
    """The running service.

    Attributes:
        http: client of the OpenVINO application.
        torch: client of the torch application, whose body timeout is BODY_TIMEOUT_S.
        deploy: `deploy(bundle)` runs `serve deploy` with that bundle for the OpenVINO application.
    """

    http: httpx.Client
    torch: httpx.Client
    deploy: Callable[[Path], None]


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster in a process of its own (serve_cluster.py), at first without an application.

    Attributes:
        dashboard: address of its dashboard.
        address: its own, for RAY_ADDRESS.
        deploy: `deploy(file)` does what `serve deploy file` does.
    """

    dashboard: str
    address: str
    deploy: Callable[[Path], None]


@pytest.fixture(scope="module")
def cluster_of_serve() -> Iterator[Cluster]:
    script = Path(__file__).with_name("serve_cluster.py")
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def deploy(file: Path) -> None:
        print(file, file=stdin, flush=True)
        while (line := stdout.readline()) != f"{DEPLOYED}\n":
            assert line, "the cluster has ended"

    try:
        addresses = json.loads(stdout.readline())
        yield Cluster(addresses["dashboard"], addresses["cluster"], deploy)
    finally:
        stdin.close()
        assert process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def service(
    cluster_of_serve: Cluster, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    file = tmp_path_factory.mktemp("config") / "serve.yaml"

    def deploy(named: Path) -> None:
        file.write_text(yaml.safe_dump(_config(port, named, bundle)))
        cluster_of_serve.deploy(file)

    file.write_text(yaml.safe_dump(_config(port, bundle, bundle)))
    # As a user does it; later ones take the short way.
    subprocess.run(
        [
            str(Path(sys.executable).with_name("serve")),
            "deploy",
            str(file),
            "--address",
            cluster_of_serve.dashboard,
        ],
        env={**os.environ, "RAY_AUTH_MODE": "token"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    wait_for(lambda: answers(f"{url}/readyz"), "the service is ready")
    wait_for(lambda: answers(f"{url}/torch/readyz"), "the torch service is ready")
    with (
        httpx.Client(base_url=url, timeout=60) as http,
        httpx.Client(base_url=f"{url}/torch", timeout=60) as batched,
    ):
        yield Service(http, batched, deploy)


@pytest.fixture(scope="module", autouse=True)
def second_service(
    service: Service, cluster_of_serve: Cluster, bundle: Path
) -> Iterator[subprocess.Popen[str]]:
    """`python -m serve` on the cluster of the first one; its imports run beside the other tests."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", str(bundle), "--port", str(free_port())],
        env={**os.environ, "RAY_ADDRESS": cluster_of_serve.address, "RAY_AUTH_MODE": "token"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _config(port: int, named: Path, bundle: Path) -> dict[str, Any]:
    """serve.yaml as a user edits it, plus a second application on the torch engine."""
    config = yaml.safe_load(Path(serve.__file__).with_name("serve.yaml").read_text())
    config["http_options"]["port"] = port
    application = config["applications"][0]
    application["deployments"][0]["user_config"]["bundle"] = str(named)
    args = {"bundle": str(bundle), "engine": "torch", "max_replicas": 1}
    batched = {
        "name": "torch",
        "route_prefix": "/torch",
        "import_path": application["import_path"],
        "args": {**args, "body_timeout_s": BODY_TIMEOUT_S},
    }
    return {**config, "applications": [application, batched]}


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    """The served bundle in this process, threaded as in a replica."""
    return Predictor.load(str(bundle), "openvino", threads=2, streams=2)


def expected(predictor: Predictor, data: bytes) -> dict[str, float]:
    return predictor.answer(data).prediction.probabilities


def refusal(reply: httpx.Response, status: int) -> str:
    """The sentence of a refusal, after checking its form."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert set(body) == {"detail", "request_id"}
    assert "\n" not in body["detail"]
    assert body["request_id"] in reply.headers["x-request-id"]
    return body["detail"]


def test_raw_png_gets_the_probabilities_of_the_predictor(
    service: Service, predictor: Predictor
) -> None:
    reply = service.http.post("/v1/predict", content=png(1), headers=PNG)
    assert reply.status_code == 200
    parsed = PredictReply.model_validate(reply.json())
    assert parsed.model.name == "unregistered"
    assert parsed.model.version == predictor.bundle.version
    [prediction] = parsed.predictions
    assert prediction.file is None
    assert prediction.error is None
    assert prediction.decision == "answer"
    assert prediction.probabilities == pytest.approx(expected(predictor, png(1)), abs=1e-6)
    assert list(prediction.probabilities or {}) == list(CLASSES)
    assert prediction.confidence == max((prediction.probabilities or {}).values())


@pytest.mark.parametrize("kind", ["application/dicom", "application/octet-stream"])
def test_raw_dicom(service: Service, predictor: Predictor, kind: str) -> None:
    data = dicom(3)
    reply = service.http.post("/v1/predict", content=data, headers={"content-type": kind})
    assert reply.status_code == 200
    [prediction] = reply.json()["predictions"]
    assert prediction["probabilities"] == pytest.approx(expected(predictor, data), abs=1e-6)


def test_a_bad_file_does_not_spoil_the_others(service: Service, predictor: Predictor) -> None:
    contents = {"a.png": png(1), "notes.txt": b"not an image at all", "b.dcm": dicom(2)}
    reply = service.http.post(
        "/v1/predict", files=[("file", (name, data)) for name, data in contents.items()]
    )
    assert reply.status_code == 200
    first, bad, last = reply.json()["predictions"]
    assert [first["file"], bad["file"], last["file"]] == list(contents)
    assert first["probabilities"] == pytest.approx(expected(predictor, png(1)), abs=1e-6)
    assert last["probabilities"] == pytest.approx(expected(predictor, contents["b.dcm"]), abs=1e-6)
    with pytest.raises(ImageError) as reason:
        decode_image(contents["notes.txt"])
    assert bad.pop("error") == str(reason.value)
    assert bad.pop("file") == "notes.txt"
    assert bad.pop("warnings") == []
    assert set(bad.values()) == {None}


def test_what_is_not_an_image_is_422(service: Service) -> None:
    one = service.http.post("/v1/predict", content=b"hello", headers=PNG)
    assert "not an image" in refusal(one, 422)
    two = service.http.post("/v1/predict", files=[("file", ("a", b"x")), ("file", ("b", b"y"))])
    assert "none of the 2 files" in refusal(two, 422)


def test_other_media_types_are_415(service: Service) -> None:
    headers = {"content-type": "text/plain"}
    assert "image/png" in refusal(
        service.http.post("/v1/predict", content=png(1), headers=headers), 415
    )


def test_no_media_type_and_a_slash_at_the_end(service: Service, predictor: Predictor) -> None:
    reply = service.http.post("/v1/predict/", content=png(1))
    assert reply.status_code == 200
    [prediction] = reply.json()["predictions"]
    assert prediction["probabilities"] == pytest.approx(expected(predictor, png(1)), abs=1e-6)
    assert service.torch.get("/healthz/").status_code == 200


def test_an_uncompressed_radiograph_of_30_mb(service: Service, predictor: Predictor) -> None:
    data = dicom(1, 3520, 4280)
    assert len(data) > 30_000_000
    reply = service.http.post("/v1/predict", content=data)
    assert reply.status_code == 200, reply.text
    [prediction] = reply.json()["predictions"]
    assert prediction["probabilities"] == pytest.approx(expected(predictor, data), abs=1e-6)


def test_a_load_balancer_may_ask_with_head(service: Service) -> None:
    for path in ("/healthz", "/readyz"):
        for client in (service.http, service.torch):
            got, headed = client.get(path), client.head(path)
            assert (headed.status_code, headed.content) == (200, b"")
            assert headed.headers["content-length"] == got.headers["content-length"]
    # The connection is still in step.
    assert service.http.get("/healthz").json() == {"status": "alive"}


def test_broken_requests_are_400(service: Service) -> None:
    post = service.http.post
    assert "no body" in refusal(post("/v1/predict", headers=PNG), 400)
    assert "field named 'file'" in refusal(
        post("/v1/predict", files={"picture": ("a.png", png(1))}), 400
    )
    assert "form was refused" in refusal(
        post("/v1/predict", content=b"x", headers={"content-type": "multipart/form-data"}), 400
    )
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + png(1)
    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert "cut short" in refusal(post("/v1/predict", content=cut, headers=kind), 400)


@pytest.mark.parametrize("declared", [True, False], ids=["content-length", "chunked"])
def test_a_body_over_the_limit_is_413(service: Service, declared: bool) -> None:
    data = bytes(MAX_BODY_BYTES + 1)
    content = data if declared else iter([data[: 2**20]] * (len(data) // 2**20 + 1))
    reply = service.http.post("/v1/predict", content=content, headers=PNG)
    assert "64 MiB" in refusal(reply, 413)


def test_a_client_that_sends_all_before_it_reads_sees_the_413(service: Service) -> None:
    size = 8 * MAX_BODY_BYTES
    address = urllib.parse.urlsplit(str(service.http.base_url))
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    headers = {**PNG, "content-length": str(size)}
    connection.request("POST", "/v1/predict", (bytes(2**20) for _ in range(size // 2**20)), headers)
    reply = connection.getresponse()
    assert reply.status == 413
    assert "64 MiB" in json.loads(reply.read())["detail"]
    connection.close()


def test_a_declared_size_is_refused_before_the_body_is_sent(service: Service) -> None:
    with _connect(service.http) as connection:
        connection.sendall(_head(f"content-length: {MAX_BODY_BYTES + 1}"))
        assert _status(connection) == 413


def test_too_many_files_are_413(service: Service) -> None:
    files = [("file", (f"{i}.png", png(1))) for i in range(MAX_FILES + 1)]
    assert str(MAX_FILES) in refusal(service.http.post("/v1/predict", files=files), 413)


def test_a_slow_body_is_408(service: Service) -> None:
    with _connect(service.torch) as connection:
        connection.sendall(_head("content-length: 1000", "/torch") + b"begun")
        assert _status(connection) == 408


def test_too_many_requests_at_once_are_429_with_retry_after(service: Service) -> None:
    connections = [_connect(service.torch) for _ in range(80)]
    try:
        for connection in connections:
            connection.sendall(_head("content-length: 1000", "/torch") + b"begun")
        replies = [connection.recv(4096).decode() for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    refused = [reply for reply in replies if reply.startswith("HTTP/1.1 429")]
    assert refused
    assert all(re.search(r"retry-after: 1\r\n", reply, re.IGNORECASE) for reply in refused)
    # Ray Serve's own answer, and so no Problem.
    assert all(re.search("content-type: text/plain", reply, re.IGNORECASE) for reply in refused)
    assert {reply.split()[1] for reply in replies} == {"408", "429"}


def test_request_ids(service: Service) -> None:
    mine = {"x-request-id": "ward-7.scan_12"}
    reply = service.http.post("/v1/predict", content=png(1), headers={**PNG, **mine})
    assert reply.json()["request_id"] == "ward-7.scan_12"
    assert reply.headers["x-request-id"] == "ward-7.scan_12"
    ids = set()
    for bad in (None, "x" * 65, "two words", "<script>"):
        headers = {**PNG, **({"x-request-id": bad} if bad else {})}
        reply = service.http.post("/v1/predict", content=png(1), headers=headers)
        request_id = reply.json()["request_id"]
        assert re.fullmatch(r"[A-Za-z0-9-]{32,36}", request_id)
        assert request_id in reply.headers["x-request-id"]
        ids.add(request_id)
    assert len(ids) == 4


def test_unknown_paths_and_methods_are_sentences(service: Service) -> None:
    assert "GET /nothing" in refusal(service.http.get("/nothing"), 404)
    assert "GET /v1/predict" in refusal(service.http.get("/v1/predict"), 405)


def test_alive_ready_and_model(service: Service, bundle: Path) -> None:
    assert service.http.get("/healthz").json() == {"status": "alive"}
    assert service.http.get("/readyz").json() == {"status": "ready"}
    reply = ModelReply.model_validate(service.http.get("/v1/model").json())
    loaded = Bundle.load(str(bundle))
    assert reply.digest == loaded.digest
    assert tuple(reply.classes) == loaded.info.classes
    assert reply.preprocess == loaded.info.preprocess
    assert (reply.backbone, reply.synthetic) == ("small_cnn", True)
    assert (reply.engine, reply.device, reply.refused) == ("openvino", "cpu", None)
    assert service.torch.get("/v1/model").json()["engine"] == "torch"


@pytest.mark.parametrize("prefix", ["", "/torch"])
def test_docs_show_without_a_network(service: Service, prefix: str) -> None:
    page = service.http.get(f"{prefix}/docs").text
    assert "//" not in re.sub(r"(?m)^\s*//.*$|<!--.*?-->", "", page)
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert len(assets) >= 3
    for asset in assets:
        assert service.http.get(asset).status_code == 200


def test_openapi_describes_the_predict_route(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    assert set(document["paths"]) == {"/v1/predict", "/healthz", "/readyz", "/v1/model"}
    route = document["paths"]["/v1/predict"]["post"]
    assert "image/*" in route["requestBody"]["content"]
    assert "multipart/form-data" in route["requestBody"]["content"]
    assert {"200", "400", "408", "413", "415", "422", "429", "503"} == set(route["responses"])


def test_sixteen_at_once_agree_with_the_predictor(service: Service, predictor: Predictor) -> None:
    pictures = [png(seed) for seed in range(16)]
    for reply, data in zip(_at_once(service.http, pictures), pictures, strict=True):
        assert reply.status_code == 200
        [prediction] = reply.json()["predictions"]
        assert prediction["probabilities"] == pytest.approx(expected(predictor, data), abs=1e-6)


def test_the_batched_engine_answers_as_the_predictor(service: Service, bundle: Path) -> None:
    torch = Predictor.load(str(bundle), "torch")
    pictures = [*(png(seed) for seed in range(15)), b"not an image"]
    *good, bad = _at_once(service.torch, pictures)
    assert "not an image" in refusal(bad, 422)
    for reply, data in zip(good, pictures[:-1], strict=True):
        [prediction] = reply.json()["predictions"]
        # bf16 sums in another order in a larger batch.
        assert prediction["probabilities"] == pytest.approx(expected(torch, data), abs=1e-2)


def test_a_new_bundle_is_swapped_in_without_a_failed_request(
    service: Service, bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    digests = {Bundle.load(str(b)).digest: b for b in (bundle, other_bundle)}
    old, new = digests
    answered = _loaded_while(
        service.http,
        lambda: (
            service.deploy(other_bundle),
            wait_for(lambda: _model(service)["digest"] == new, "the new bundle answers"),
        ),
    )
    assert {status for status, _ in answered} == {200}
    assert {version for _, version in answered} == {old[:12], new[:12]}

    damaged = shutil.copytree(other_bundle, tmp_path / "damaged")
    (damaged / "bundle.json").write_text((damaged / "bundle.json").read_text() + " ")
    answered = _loaded_while(
        service.http,
        lambda: (
            service.deploy(damaged),
            wait_for(lambda: _model(service)["refused"] is not None, "the refusal is reported"),
        ),
    )
    assert set(answered) == {(200, new[:12])}
    refused = _model(service)["refused"]
    assert refused["bundle"] == str(damaged)
    assert "bundle.json does not match its checksum" in refused["reason"]

    service.deploy(bundle)
    wait_for(lambda: _model(service)["digest"] == old, "the first bundle is back")
    assert _model(service)["refused"] is None


def test_a_second_service_on_the_cluster_is_refused_and_the_first_one_stays(
    service: Service, second_service: subprocess.Popen[str]
) -> None:
    output, errors = second_service.communicate(timeout=120)
    assert (second_service.returncode, output) == (2, "")
    assert "already runs Ray Serve" in errors
    assert service.http.get("/readyz").status_code == 200


def _model(service: Service) -> dict[str, Any]:
    return service.http.get("/v1/model").json()


def _at_once(http: httpx.Client, pictures: list[bytes]) -> list[httpx.Response]:
    together = threading.Barrier(len(pictures))

    def send(data: bytes) -> httpx.Response:
        together.wait()
        return http.post("/v1/predict", content=data, headers=PNG)

    with concurrent.futures.ThreadPoolExecutor(len(pictures)) as pool:
        return list(pool.map(send, pictures))


def _loaded_while(http: httpx.Client, action: Callable[[], object]) -> list[tuple[int, str]]:
    """Status and model version of every request of a client that never pauses meanwhile."""
    done = threading.Event()
    answered: list[tuple[int, str]] = []

    def send() -> None:
        while not done.is_set():
            reply = http.post("/v1/predict", content=png(1), headers=PNG)
            version = reply.json()["model"]["version"] if reply.status_code == 200 else ""
            answered.append((reply.status_code, version))

    client = threading.Thread(target=send)
    client.start()
    try:
        action()
    finally:
        done.set()
        client.join()
    return answered


def _connect(http: httpx.Client) -> socket.socket:
    port = urllib.parse.urlsplit(str(http.base_url)).port
    return socket.create_connection(("127.0.0.1", port or 0), timeout=60)


def _head(header: str, prefix: str = "") -> bytes:
    lines = [f"POST {prefix}/v1/predict HTTP/1.1", "host: x", "content-type: image/png", header]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _status(connection: socket.socket) -> int:
    return int(connection.recv(4096).split()[1])
