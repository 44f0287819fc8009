"""Images by URL: only where the user allows it, once each, within bounds, and an error names the sample."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpu.core import UserError
from mmpu.media import download
from mmpu.media.images import load_image
from mmpu.recipes.collecting import GenerateOptions, collection
from mmpu.task.yaml_task import load_task
from test_media import encoded


class Pictures:
    """A web server with pictures and with everything else that URLs lead to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.picture = encoded(Image.new("RGB", (12, 8), "red"))
        pictures = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pictures.asked.append(self.path)
                times = pictures.asked.count(self.path)
                if self.path.startswith("/to/"):
                    self.send_response(302)
                    self.send_header("Location", self.path.removeprefix("/to/"))
                    self.end_headers()
                elif self.path == "/gone.png":
                    self.send_error(404)
                elif self.path == "/shaky.png" and times < 3:
                    self.send_error(503)
                elif self.path == "/cut.png":
                    self.reply(pictures.picture[:40], len(pictures.picture))
                elif self.path == "/endless.png":
                    self.reply(b"", None)
                    for _ in range(1000):
                        try:
                            self.wfile.write(b"x" * 4096)
                        except ConnectionError:
                            return
                elif self.path == "/slow.png":
                    self.reply(b"", None)
                    for _ in range(40):
                        time.sleep(0.05)
                        try:
                            self.wfile.write(b"x")
                        except ConnectionError:
                            return
                else:
                    self.reply(pictures.picture, len(pictures.picture))

            def reply(self, raw: bytes, length: int | None) -> None:
                self.send_response(200)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pictures]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = Pictures()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def task(folder: Path, *urls: str) -> str:
    (folder / "rows.csv").write_text("picture\n" + "\n".join(urls))
    (folder / "seen.yaml").write_text('prompt: [{user: [{image: "{{ picture }}"}, "What?"]}]\nsource: rows.csv\n')
    return str(folder / "seen.yaml")


def test_each_url_is_fetched_once_and_only_if_allowed(tmp_path: Path, pictures: Pictures) -> None:
    name = task(tmp_path, f"{pictures.url}/a.png", f"{pictures.url}/b.png", f"{pictures.url}/a.png")
    (image,) = load_task(name).samples("test[:1]")[0].images
    with pytest.raises(UserError, match="URLs are only fetched with --allow-urls"):
        load_image(image)
    assert pictures.asked == []
    for _ in range(2):
        samples = load_task(name, allow_urls=True).samples("test")
        assert [load_image(s.images[0]).size for s in samples] == [(12, 8)] * 3
    assert sorted(pictures.asked) == ["/a.png", "/b.png"]


def test_a_task_cannot_allow_itself(tmp_path: Path) -> None:
    name = task(tmp_path, "http://127.0.0.1:9/a.png")
    with Path(name).open("a") as file:
        file.write("allow_urls: true\n")
    with pytest.raises(UserError, match="unknown key 'allow_urls'"):
        load_task(name)


def test_commands_hand_the_permission_on(tmp_path: Path, pictures: Pictures) -> None:
    name = task(tmp_path, f"{pictures.url}/a.png")
    for allowed in (False, True):
        options = GenerateOptions(name, "reference", (), tmp_path / "o.jsonl", allow_urls=allowed, dry_run=True)
        assert collection(options).samples[0].images[0].startswith("http") != allowed


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/gone.png", "cannot be fetched (HTTP 404)"),
        ("/cut.png", "cannot be fetched (the connection was lost)"),
        ("/endless.png", "larger than 1 MiB"),
        ("/slow.png", "cannot be fetched (not there within 0.5 s)"),
        ("/to/file:///etc/hostname", "cannot be fetched"),
    ],
)
def test_what_cannot_be_fetched_is_named_with_its_sample(
    tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 2**20)
    monkeypatch.setattr(download, "SECONDS", 0.5 if "slow" in path else 10)
    with pytest.raises(UserError) as found:
        load_task(task(tmp_path, f"{pictures.url}/ok.png", pictures.url + path), allow_urls=True).samples("test")
    assert str(found.value).startswith(f"sample 'test-2': image {pictures.url}{path}: ")
    assert message in str(found.value)
    kept = list((tmp_path / "cache/mmpu/media").iterdir())
    assert len(kept) == 1, "only the one that came whole"


def test_a_shaky_server_is_asked_again_and_a_redirect_followed(tmp_path: Path, pictures: Pictures) -> None:
    assert download.fetch(f"{pictures.url}/shaky.png", tmp_path / "f").read_bytes() == pictures.picture
    assert download.fetch(f"{pictures.url}/to/{pictures.url}/c.png", tmp_path / "f").read_bytes() == pictures.picture
