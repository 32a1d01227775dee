"""The models that make videos, as the caller's key sees them, and what each of their providers can make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from server.domain.catalog import Dialect, Offer
from server.domain.identity import Principal
from server.domain.limits import MAX_PAGE
from server.domain.ports import CatalogSource
from server.domain.request import Endpoint
from server.domain.video import VideoAbilities, VideoAdapter
from server.pipeline.models import Listed, ListedOffer, Listings, PerCatalog, Wanted

__all__ = ["VideoModel", "VideoModels", "VideoOffer"]

_WANTED = Wanted((("endpoints", frozenset({Endpoint.VIDEO.value})),), MAX_PAGE, 0)


class VideoOffer(msgspec.Struct, frozen=True):
    listed: ListedOffer
    abilities: VideoAbilities


class VideoModel(msgspec.Struct, frozen=True):
    """A model, and those of its offers that make videos."""

    listed: Listed
    offers: Sequence[VideoOffer]


class VideoModels:
    """All of them, ascending by id; there is no second page."""

    def __init__(self, catalogs: CatalogSource, adapters: Mapping[Dialect, VideoAdapter]) -> None:
        self._listings = PerCatalog(catalogs, Listings)
        self._abilities = PerCatalog(catalogs, lambda _: _Abilities(adapters))

    def __call__(self, principal: Principal) -> tuple[VideoModel, ...]:
        abilities = self._abilities.current
        return tuple(
            VideoModel(model, [VideoOffer(one, abilities.of(one.offer)) for one in model.offers if _makes_videos(one)])
            for model in self._listings.current.of(principal.restrictions).page(_WANTED).models
        )


class _Abilities:
    """Of the offers of one catalogue, each found out once."""

    def __init__(self, adapters: Mapping[Dialect, VideoAdapter]) -> None:
        self._adapters = adapters
        self._known: dict[int, tuple[Offer, VideoAbilities]] = {}

    def of(self, offer: Offer) -> VideoAbilities:
        if (known := self._known.get(id(offer))) is None:
            adapter = self._adapters.get(offer.provider.dialect)
            known = offer, VideoAbilities() if adapter is None else adapter.abilities(offer)
            self._known[id(offer)] = known  # with the offer, whose id is thus no other's
        return known[1]


def _makes_videos(listed: ListedOffer) -> bool:
    return Endpoint.VIDEO.value in listed.endpoints
