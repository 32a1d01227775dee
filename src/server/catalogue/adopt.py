"""Models that a provider lists become entries for an operator's file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import yaml

from server.catalogue.defaults import default_prices
from server.catalogue.listed import Kind, Listed
from server.domain.addresses import is_near
from server.domain.catalog import Catalog, Model, Provider
from server.domain.request import Endpoint

Entry = dict[str, Any]

_ENDPOINTS: Final[Mapping[Kind, Endpoint]] = {"embedding": Endpoint.EMBEDDINGS, "moderation": Endpoint.MODERATIONS}
_TEXT: Final = frozenset({Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES})

NOT_SERVED: Final = "makes something that is not served here"
ALREADY_THERE: Final = "is in the catalogue already"
NO_PRICE: Final = "has no price that is known; give one with --price"
NO_NAME: Final = "has a name that is taken or cannot be an id"


class Adopted(msgspec.Struct, frozen=True):
    """What to write, by the keys of a file, and by reason what was left out."""

    models: list[Entry]
    offers: list[Entry]
    left_out: dict[str, list[str]]

    def yaml(self) -> str:
        parts = {key: entries for key, entries in (("models", self.models), ("offers", self.offers)) if entries}
        return as_yaml(parts)


def as_yaml(parts: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(parts), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def adopt(
    catalog: Catalog,
    provider: Provider,
    listed: Iterable[Listed],
    *,
    price: tuple[str, str] | None = None,
    is_wanted: Callable[[str], bool] = lambda _: True,
) -> Adopted:
    """`price`: USD per million tokens of input and of output where none is known.

    A model that the catalogue has is offered by one more provider; another becomes a model. What a server near by has
    is free of charge, unless it is given a price.
    """
    return _Adopting(catalog, provider, price).run(one for one in listed if is_wanted(one.id))


class _Adopting:
    def __init__(self, catalog: Catalog, provider: Provider, price: tuple[str, str] | None) -> None:
        self._catalog = catalog
        self._provider = provider
        self._price = price
        self._is_near = is_near(urlsplit(provider.base_url).hostname or "")
        offers = [offer for model in catalog.models.values() for offer in model.offers if offer.provider is provider]
        self._offered = {offer.provider_model for offer in offers}
        text = [offer.params for offer in offers if offer.endpoints & _TEXT and offer.params is not None]
        self._params: frozenset[str] | None = frozenset().union(*text) if text else None
        self._by_slug: dict[str, Model] = {}
        for model in catalog.models.values():
            if not model.is_free:
                self._by_slug.setdefault(slug(model.id), model)
        self._taken = {*catalog.models, *catalog.aliases}
        self._adopted = Adopted([], [], {})

    def run(self, listed: Iterable[Listed]) -> Adopted:
        for one in listed:
            reason = self._take(one)
            if reason is not None:
                self._adopted.left_out.setdefault(reason, []).append(one.id)
        return self._adopted

    def _take(self, one: Listed) -> str | None:
        """Why it is left out; None where it is not."""
        if one.kind == "other":
            return NOT_SERVED
        if one.id in self._offered:
            return ALREADY_THERE
        prices = self._prices(one)
        known = self._by_slug.get(slug(one.id))
        if prices is None and not self._is_near:
            return NO_PRICE
        if prices is not None and known is not None and self._can_join(known, one):
            self._taken.add(f"{known.id} by {self._provider.id}")
            self._adopted.offers.append({"model": known.id, **self._offer(one, prices, known)})
            return None
        id_ = self._id(one, ":free" if prices is None else "")
        if id_ is None:
            return NO_NAME
        self._taken.add(id_)
        self._adopted.models.append(self._model(one, id_, prices))
        return None

    def _can_join(self, known: Model, one: Listed) -> bool:
        is_offered = any(offer.provider.id == self._provider.id for offer in known.offers)
        serves = {endpoint for offer in known.offers for endpoint in offer.endpoints}
        is_new = f"{known.id} by {self._provider.id}" not in self._taken
        return is_new and not is_offered and bool(serves & _endpoints(one))

    def _prices(self, one: Listed) -> Entry | None:
        """An offer's `price`, empty where the table has one; None where none is known."""
        if default_prices().find(self._provider.prices_as or self._provider.id, one.id) is not None:
            return {}
        if self._price is None:
            return None
        names = ("input_text_tokens", "output_text_tokens")
        return dict(zip(names[: 1 if one.kind == "embedding" else 2], self._price, strict=False))

    def _id(self, one: Listed, ending: str) -> str | None:
        author, slash, name = one.id.rpartition("/")
        candidates = [f"{self._provider.id}/{_word(name)}{ending}"]
        if slash and not ending:
            candidates.insert(0, f"{_word(author.rpartition('/')[2])}/{_word(name)}{ending}")
        usable = (id_ for id_ in candidates if re.fullmatch(r"[a-z0-9][^/]*/[a-z0-9][^/]*", id_) and len(id_) <= 128)
        return next((id_ for id_ in usable if id_ not in self._taken), None)

    def _model(self, one: Listed, id_: str, prices: Entry | None) -> Entry:
        return _there(
            id=id_,
            name=one.name,
            description=one.description,
            release_date=one.release_date,
            input_types=list(one.input_types),
            output_types=["embedding"] if one.kind == "embedding" else None,
            context_length=one.context_length,
            max_output_tokens=one.max_output_tokens,
            offers=[self._offer(one, prices, None)],
        )

    def _offer(self, one: Listed, prices: Entry | None, known: Model | None) -> Entry:
        params = one.params if one.params is not None else self._params
        differs = known is not None and one.context_length not in (None, known.context_length)
        return _there(
            provider=self._provider.id,
            provider_model=one.id,
            endpoints=[_ENDPOINTS[one.kind].value] if one.kind in _ENDPOINTS else None,
            context_length=one.context_length if differs else None,
            params=sorted(params) if params and one.kind == "text" else None,
            price=prices,
        )


def slug(name: str) -> str:
    """What names of one model have in common, whoever has it: `openai/gpt-oss-120b` and `gpt-oss:120b`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().rpartition("/")[2])


def _endpoints(one: Listed) -> frozenset[Endpoint]:
    return frozenset({_ENDPOINTS[one.kind]}) if one.kind in _ENDPOINTS else _TEXT


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.")


def _there(**entry: Any) -> Entry:
    return {key: value for key, value in entry.items() if value not in (None, [], {})}
