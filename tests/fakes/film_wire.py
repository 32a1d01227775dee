"""OpenAI's API of videos, by a provider whose videos are done as soon as they are looked at."""

from __future__ import annotations

import re

from tests.fakes.openai_upstream import Reply, Request
from tests.fakes.replies import error, json_reply, whole

FILM = bytes(range(256)) * 16
"""What every video consists of."""
HINT = {"openai-poll-after-ms": "200"}


def as_openai_videos(request: Request) -> Reply:
    """Jobs are all alike, so that nothing need be kept of them."""
    path = request.path.partition("?")[0]
    ids = re.search(r"/videos/(\w+)", path)
    if request.method == "DELETE" and ids:
        return json_reply({"id": ids[1], "object": "video.deleted", "deleted": True})
    if path.endswith("/content"):
        return whole(FILM, content_type="video/mp4")
    if path.endswith("/cancel"):
        return error(404, "There is no such route.", code="not_found")
    begins = request.method == "POST"
    job = {
        "id": "video_of_acme",
        "object": "video",
        "model": "film",
        "status": "queued" if begins else "completed",
        "progress": 0 if begins else 100,
        "created_at": 1_795_000_000,
        "seconds": "4",
        "size": "1280x720",
    }
    return json_reply(job, headers=HINT)
