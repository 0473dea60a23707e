"""Publishing, against a server of the test's own that speaks the Hub's protocol."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.interop.hub import check_push, is_hub_name, licence_of, push


class FakeHub(BaseHTTPRequestHandler):
    """Takes repositories and commits, and keeps what they hold."""

    files: dict[str, bytes]
    asked: list[str]
    refuse = False

    def log_message(self, format: str, *args: Any) -> None: ...

    def _answer(self, code: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self._answer(200, {"id": "me/adapter", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(self.path)
        if self.refuse:
            self._answer(403, {"error": "you may not"})
        elif self.path == "/api/repos/create":
            self._answer(200, {"url": f"http://{self.headers['Host']}/me/adapter", "name": "me/adapter"})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            listed = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self._answer(200, {"files": listed})
        elif self.path.endswith("/commit/main"):
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    type(self).files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            url = f"http://{self.headers['Host']}/me/adapter/commit/{'1' * 40}"
            self._answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": url, "hookOutput": ""})
        else:
            self._answer(200, {"errors": [], "warnings": []})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    from huggingface_hub import constants

    handler = type("Hub", (FakeHub,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def folder_of_a_run(root: Path) -> Path:
    folder = root / "run"
    (folder / "checkpoint-4").mkdir(parents=True)
    for name in ("adapter_model.safetensors", "run.json", "events.jsonl", "checkpoint-4/adapter_model.safetensors"):
        (folder / name).write_bytes(b"weights")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n\n# A run\n")
    return folder


def test_the_model_and_its_card_are_published_and_nothing_else(tmp_path: Path, hub: type[FakeHub]) -> None:
    address = push(folder_of_a_run(tmp_path), "me/adapter")
    assert set(hub.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert hub.files["adapter_model.safetensors"] == b"weights"
    assert address.endswith("/me/adapter") and "/api/repos/create" in hub.asked


def test_a_refusal_is_one_line(tmp_path: Path, hub: type[FakeHub]) -> None:
    hub.refuse = True
    with pytest.raises(TapertuneError) as caught:
        push(folder_of_a_run(tmp_path), "me/adapter")
    assert "is not published as 'me/adapter'" in str(caught.value) and "403" in str(caught.value)
    assert "\n" not in str(caught.value) and "hf_aaaa" not in str(caught.value)


def test_what_stands_in_the_way_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(TapertuneError, match="--push-to-hub is 'a b'; it must be OWNER/NAME"):
        check_push("a b")
    with pytest.raises(TapertuneError, match="HF_HUB_OFFLINE is set"):
        check_push("me/adapter")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(TapertuneError, match="needs a token of the Hub"):
        check_push("me/adapter")


def test_names_and_licences(tmp_path: Path) -> None:
    assert is_hub_name("me/adapter") and not is_hub_name("/a/folder") and not is_hub_name(str(tmp_path))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    assert licence_of(str(tmp_path)) == "apache-2.0"
    assert licence_of("nobody/nothing") is None
