"""What schemathesis cannot know by itself: credentials, what is live, and what it must leave standing.

The environment says what there is: GHOST_LIVE_FIXTURE is a JSON file with

- `url`: the server;
- `token`: one that manages every stream, or null: then nobody is signed in;
- `studio`: the studio secrets of streams by their names;
- `link_secret`: the secret of the boxes, or null;
- `live`: a stream that is live, or null; `spare`: one that may be changed, deleted and logged out of.

GHOST_LIVE_TOLD is the file that gets how often each operation gave each status, and which problem.
"""

import atexit
import hashlib
import hmac
import json
import os
import re
import secrets
import time
import urllib.request

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.generation.meta import TestPhase
from schemathesis.core.parameters import ParameterLocation

with open(os.environ["GHOST_LIVE_FIXTURE"], encoding="utf-8") as file:
    FIXTURE = json.load(file)

# Offers and candidates are text.
schemathesis.serializer.alias(["application/sdp", "application/trickle-ice-sdpfrag"], "text/plain")

# The document names networks by a format that JSON Schema has not.
schemathesis.openapi.format(
    "cidr",
    st.one_of(
        st.ip_addresses(v=4).flatmap(lambda a: st.integers(0, 32).map(lambda n: f"{a}/{n}")),
        st.ip_addresses(v=6).flatmap(lambda a: st.integers(0, 128).map(lambda n: f"{a}/{n}")),
    ),
)


def fetch(path):
    """A playlist as text, with the token where there is one; empty where there is none."""
    request = urllib.request.Request(FIXTURE["url"] + path)
    if FIXTURE["token"]:
        request.add_header("authorization", f"Bearer {FIXTURE['token']}")
    try:
        with urllib.request.urlopen(request, timeout=15) as response:
            return response.read().decode()
    except OSError:
        return ""


class Live:
    """What is live now: asked again once a second, for parts come and go."""

    def __init__(self):
        self.at = 0.0
        page = re.search(r"/assets/([^\"]+\.js)\"", fetch("/"))
        self.file = page and page[1]
        self.parameters = {"file": self.file}

    def now(self):
        stream = FIXTURE["live"]
        if stream is None or time.monotonic() - self.at < 1:
            return self.parameters
        self.at = time.monotonic()
        tracks = re.findall(r"^(?:#EXT-X-MEDIA:.*URI=\")?([a-z2-7]{26})/([^/]+)/([^/]+)/index\.m3u8", fetch(f"/live/{stream}/index.m3u8"), re.M)
        if not tracks:
            return self.parameters
        broadcast, session, track = tracks[0]
        playlist = fetch(f"/live/{stream}/{broadcast}/{session}/{track}/index.m3u8")
        objects = re.findall(r"/media/[^/]+/[^/]+/[^/]+/([^\"\n]+)", playlist)
        first = re.search(r"#EXT-X-MEDIA-SEQUENCE:(\d+)", playlist)
        self.parameters = {
            "stream": stream,
            "broadcast": broadcast,
            "session": session,
            "track": track,
            "object": objects[-1] if objects else None,
            "msn": int(first.group(1)) + playlist.count("#EXTINF") if first else None,
            "file": self.file,
        }
        return self.parameters


LIVE = Live()

# These void what the rest of the run needs, or take the secret of a studio: they are tried on a stream that nothing else needs.
SPARE = {"getStudio", "rotateKeyInStudio", "logOutOfStudio", "changeStream", "configureStream", "putStream"}
# A random object under a live broadcast's name is nobody's, and a live object must not go.
UNTOUCHED = {"putObject", "deleteObject"}


def operation_id(case):
    return case.operation.definition.raw.get("operationId")


def is_good(case, location):
    """Whether what was made for that place is as the document has it."""
    return case.meta is not None and not case.meta.is_negative_at(location)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Asks every other time for what there is: random names are never those of something live."""
    name = operation_id(case)
    stateful = case.meta is not None and case.meta.phase.name == TestPhase.STATEFUL
    if case.path_parameters and is_good(case, ParameterLocation.PATH) and not stateful and name not in UNTOUCHED:
        if name == "deleteLink" and LINKS:
            known = LINKS.pop()
        elif name == "deleteStream":
            known = {"stream": MADE.pop() if MADE else None}
        else:
            known = {"stream": FIXTURE["spare"]} if name in SPARE else LIVE.now()
        text = json.dumps(case.path_parameters, sort_keys=True, default=str)
        if hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] % 4 != 0:
            for key in case.path_parameters:
                if known.get(key) is not None:
                    case.path_parameters[key] = known[key]
    # Names are also taken from answers.
    if name in SPARE and case.path_parameters.get("stream") == FIXTURE["live"]:
        case.path_parameters["stream"] = FIXTURE["spare"]
    if name == "deleteStream" and case.path_parameters.get("stream") in (FIXTURE["live"], FIXTURE["spare"]):
        case.path_parameters["stream"] = "gone"
    # The entry that a box gives has the name of its address, which no schema can say.
    if name == "putStream" and isinstance(case.body, dict) and "name" in case.body and is_good(case, ParameterLocation.BODY):
        case.body["name"] = case.path_parameters["stream"]
    # Whoever takes everything back loses the token of this run with it.
    if name == "revoke" and isinstance(case.body, dict) and case.body.get("streams") == "*":
        case.body["streams"] = "old-*"


# How often each operation gave each status.
TOLD = {}
# The watch links that were made: a stream's name and an id.
LINKS = []
# The streams that were.
MADE = []


@atexit.register
def tell():
    with open(os.environ["GHOST_LIVE_TOLD"], "w", encoding="utf-8") as told:
        json.dump(TOLD, told)


@schemathesis.hook
def after_call(context, case, response):
    """Learns what answers give: secrets that void others, and names of what there is."""
    # Other methods are tried on each address as well.
    if response.request.method.lower() != case.operation.method.lower():
        return
    name, status = operation_id(case), str(response.status_code)
    kind = re.search(rb"urn:ghost-live:problem:([a-z-]+)", response.content)
    said = f"{status} {kind[1].decode()}" if kind else status
    counts = TOLD.setdefault(name, {})
    counts[said] = counts.get(said, 0) + 1
    if name == "logOutOfStudio" and status == "200":
        FIXTURE["studio"][case.path_parameters["stream"]] = response.json()["secret"]
    if name == "putStream" and status in ("200", "204"):
        FIXTURE["studio"][case.path_parameters["stream"]] = response.json()["secret"] if status == "200" else case.body["studio_secret"]
    if name == "createStream" and status == "201":
        made = response.json()
        FIXTURE["studio"][made["name"]] = made["studio_secret"]
        MADE.append(made["name"])
    if name == "createLink" and status == "201":
        LINKS.append({"stream": case.path_parameters["stream"], "jti": response.json()["jti"]})


def box_proof(method, path):
    """`Authorization` of a box (docs/threat-model.md)."""
    now, nonce = str(int(time.time())), secrets.token_hex(16)
    mac = hmac.new(FIXTURE["link_secret"].encode(), digestmod=hashlib.sha256)
    for field in ("box", method, path, now, nonce):
        mac.update(len(field.encode()).to_bytes(8, "big") + field.encode())
    return f"GhostLive {now}.{nonce}.{mac.hexdigest()}"


class Credentials(requests.auth.AuthBase):
    """What lets somebody in at that address, as the request is sent: a proof covers its method and path."""

    def __call__(self, request):
        path = request.path_url.split("?")[0]
        studio = re.match("/api/studio/([^/]+)", path)
        if path.startswith("/internal/"):
            request.headers["authorization"] = box_proof(request.method, path)
        elif studio and studio[1] in FIXTURE["studio"]:
            request.headers["authorization"] = f"Bearer {FIXTURE['studio'][studio[1]]}"
        else:
            request.headers["authorization"] = f"Bearer {FIXTURE['token']}"
        return request


if FIXTURE["token"]:
    schemathesis.auth.set_from_requests(Credentials()).apply_to(lambda context: context.operation.definition.raw.get("security"))
