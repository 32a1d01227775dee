"""What the core needs from the outside, as narrow interfaces. `server.bootstrap` decides who fills them."""

from __future__ import annotations

from typing import Protocol

from server.domain.catalog import Catalog, Offer
from server.domain.errors import GatewayError
from server.domain.events import GenerationStream, ProviderStream
from server.domain.identity import Arrival, Call, Principal, Scope
from server.domain.request import Endpoint, GenerationRequest
from server.domain.stored import StoredResponse
from server.domain.work import Work


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class IdSource(Protocol):
    def new(self) -> str:
        """32 hexadecimal digits, unique, ascending in time (UUIDv7)."""
        ...


class CatalogSource(Protocol):
    @property
    def current(self) -> Catalog:
        """The catalogue as of now; the same object until a file changes."""
        ...


class KeyStore(Protocol):
    async def authenticate(self, token: str) -> Principal | None:
        """The principal of a valid key, else None; never says why. Knows of a revocation within 1 s.

        Raises GatewayError (`database_unavailable`) where the key cannot be looked up.
        """
        ...


class Capable(Protocol):
    """What can be asked for in one dialect."""

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """It is never given other work."""
        ...

    def supports(self, offer: Offer, request: Work) -> str | None:
        """None where the dialect can say all that `request` asks, else the client's name of what it cannot."""
        ...


class ProviderAdapter(Capable, Protocol):
    """One dialect's adapter: speaks to any upstream of that dialect."""

    def stream(self, offer: Offer, request: Work) -> ProviderStream:
        """Call the upstream and yield its events; for a unary request, as one batch at the end.

        An empty batch tells that the upstream is alive and has said nothing. Raises ProviderFailure. Closing the
        generator, or cancelling it, closes the upstream connection at once.
        """
        ...


class ResponseStore(Protocol):
    """Responses kept for `previous_response_id` and GET, per team."""

    async def put(self, response: StoredResponse) -> None:
        """Keep it; durable when this returns."""
        ...

    async def get(self, team_id: str, suffix: str) -> StoredResponse | None: ...

    async def delete(self, team_id: str, suffix: str) -> bool:
        """Whether there was one."""
        ...


class Reception(Protocol):
    """Takes calls in: gives each its ids and finds out who is calling."""

    def arrive(
        self,
        *,
        suffix: str | None = None,
        request_id: str | None = None,
        deadline_in_s: float | None = None,
        client: str = "",
    ) -> Arrival:
        """Ids and times of a request that has just come in from the address `client`; `deadline_in_s` is the caller's,
        from now.
        """
        ...

    async def authenticate(self, arrival: Arrival, authorization: str | None, scope: Scope) -> Call:
        """The call behind an `authorization` value. Raises GatewayError (401, 403, or 503 without a database)."""
        ...


class CallObserver(Protocol):
    """Counts calls."""

    def __call__(self, method: str, status: int, reason: str, took_s: float) -> None:
        """A call has ended: `method` is its full name, `status` as HTTP has it, `reason` empty where all went well."""
        ...


class Refusals(Protocol):
    """Keeps the record of a request that failed before the pipeline took it over."""

    async def __call__(
        self, call: Call, endpoint: Endpoint, error: GatewayError, *, model: str = "", stream: bool = False
    ) -> None:
        """Return once the record is durable, or soon: the caller waits for its error. Never raises but for
        cancellation. `model` is what the client asked for, as far as that could be read. A call whose settlement is
        known already has its record.
        """
        ...


class Generate(Protocol):
    """The pipeline: route, admit, attempt, settle."""

    def __call__(self, call: Call, request: Work) -> GenerationStream:
        """Batches of events; the first is `Started`, the last is `Settled`.

        Raises GatewayError: before the first batch where nothing was generated, else in mid-stream. Empty batches only
        tell that the upstream is alive. The result of work that is no generation comes as one `Produced`. Close the
        generator (`contextlib.aclosing`) to cancel the upstream call.
        """
        ...


class CountTokens(Protocol):
    """Estimates the tokens of a prompt."""

    def __call__(self, request: GenerationRequest) -> int:
        """Of the text, the tools and the media. Nothing is called or charged, and only the prompt need be there.

        Raises GatewayError where the model is not known, or nobody could answer such a request.
        """
        ...
