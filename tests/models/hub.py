"""A stand-in of the hub: what its client calls to make a repository, upload to it and download from it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Holds repositories in memory: name -> {path: bytes}; `asked` lists the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories, self.private, self.blobs, self.asked, self.tokens = {}, {}, {}, [], set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.repositories[name].items())).encode()).hexdigest()


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *words):
        pass

    def answer(self, value=None, status=200, headers=(), body=None):
        body = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        for name, text in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code):
        self.answer({"error": code}, 404, [("X-Error-Code", code), ("X-Error-Message", code)])

    def received(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_any(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        body, words = self.received(), path.strip("/").split("/")
        hub.asked.append((self.command, path))
        hub.tokens.add(self.headers.get("Authorization"))
        if path == "/":
            return self.answer({})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if name in hub.repositories:
                return self.answer({"error": "there", "url": f"{hub.url}/{name}"}, 409)
            hub.repositories[name], hub.private[name] = {}, asked.get("private") or asked.get("visibility") == "private"
            return self.answer({"url": f"{hub.url}/{name}", "id": name})
        if path == "/api/validate-yaml":
            front = json.loads(body)["content"].partition("---\n")[2].partition("---\n")[0]
            known = ("mit", "unknown", "other", "apache-2.0")
            wrong = [line for line in front.splitlines() if line.startswith("license:") and line.split()[1] not in known]
            return self.answer({"errors": [{"message": line} for line in wrong], "warnings": []}, 400 if wrong else 200)
        if path.startswith("/blobs/"):
            hub.blobs[words[1]] = body
            return self.answer({})
        if words[0] == "api":
            name, rest = "/".join(words[2:4]), words[4:]
        else:
            name, rest = "/".join(words[:2]).removesuffix(".git"), words[2:]
        if name not in hub.repositories:
            return self.missing("RepoNotFound")
        files = hub.repositories[name]
        if rest[:1] == ["preupload"]:
            kinds = [(f["path"], "lfs" if f["path"].endswith(".safetensors") else "regular") for f in json.loads(body)["files"]]
            return self.answer({"files": [{"path": p, "uploadMode": kind, "shouldIgnore": False} for p, kind in kinds]})
        if rest == ["info", "lfs", "objects", "batch"]:
            objects = json.loads(body)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{hub.url}/blobs/{each['oid']}"}}
            return self.answer({"transfer": "basic", "objects": objects})
        if rest[:1] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[line["value"]["path"]] = hub.blobs[line["value"]["oid"]]
            found = {"commitUrl": f"{hub.url}/{name}/commit/{hub.commit(name)}", "commitOid": hub.commit(name)}
            return self.answer({**found, "success": True})
        if rest[:1] == ["tree"]:
            listed = [{"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for p, b in files.items()]
            return self.answer(listed)
        if rest[:1] == ["resolve"]:
            if (path := "/".join(rest[2:])) not in files:
                return self.missing("EntryNotFound")
            etag = hashlib.sha256(files[path]).hexdigest()
            headers = [("ETag", f'"{etag}"'), ("X-Repo-Commit", hub.commit(name))]
            return self.answer(headers=headers, body=files[path])
        siblings = [{"rfilename": path} for path in files]
        return self.answer({"id": name, "sha": hub.commit(name), "private": hub.private[name], "siblings": siblings, "tags": []})

    do_GET = do_POST = do_PUT = do_HEAD = handle_any


@contextmanager
def standing_in(monkeypatch, cache):
    """Lets the hub's client talk to a stand-in on this machine, with a cache of its own."""
    from huggingface_hub import constants

    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        names = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(cache),
        }
        for name, value in names.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        try:
            yield hub
        finally:
            hub.shutdown()
