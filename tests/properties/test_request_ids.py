"""A provider's id of a request is kept as it is only where cleaning would have found nothing in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.domain.catalog import Provider
from server.domain.errors import UpstreamError
from server.providers.request_ids import upstream_request_id
from server.providers.scrub import scrubbed

SECRET = "deadbeef-0123-4567-89ab-cdef01234567"
PROVIDER = Provider("acme", "openai", "https://api.acme.example/v1", SECRET)

usual = st.from_regex(r"(?:req_)?[0-9a-f-]{1,70}|req_[0-9A-Za-z]{1,70}", fullmatch=True)
strange = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=80)
leaking = st.tuples(st.sampled_from(["", "req_", "-"]), st.integers(0, 20)).map(lambda at: at[0] + SECRET[at[1] :])


@given(usual | strange | leaking)
def test_an_id_is_what_cleaning_leaves_of_it(text: str) -> None:
    cleaned = scrubbed(UpstreamError(code=text), PROVIDER).code
    assert upstream_request_id({"x-request-id": text}, PROVIDER) == (cleaned or None)
