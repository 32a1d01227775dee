"""The offers of a model, each with its provider, its parameters and its prices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from server.catalogue.defaults import default_prices
from server.catalogue.files import EmbeddingsEntry, Located, ModelEntry, OfferEntry, PriceTierEntry, VideosEntry
from server.catalogue.prices import PriceReader, missing_dimensions
from server.catalogue.problems import Problem, suggestion
from server.catalogue.source import YamlPath
from server.domain.catalog import EmbeddingFacts, Offer, PriceSource, Provider, VideoFacts
from server.domain.parameters import CANONICAL, PARAMETERS
from server.domain.pricing import PriceList

_EXAMPLE: Final = 'price: {input_text_tokens: "0.15", output_text_tokens: "0.60"}'


class Offers:
    """Builds offers of known providers.

    By provider, `priced_as` says whose default prices hold for it, `embeddings` and `videos` how it may be asked for
    those.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        priced_as: Mapping[str, str],
        embeddings: Mapping[str, EmbeddingsEntry],
        videos: Mapping[str, VideosEntry],
        problems: list[Problem],
    ) -> None:
        self._providers = providers
        self._priced_as = priced_as
        self._embeddings = embeddings
        self._videos = videos
        self._problems = problems

    def of(self, model: Located[ModelEntry], offers: Iterable[Located[OfferEntry]]) -> Iterator[Offer]:
        """The offers of one model; whatever is wrong with them is added to the problems."""
        seen: set[str] = set()
        made = frozenset(model.entry.output_types) if "output_types" in model.entry.model_fields_set else None
        for located in offers:
            entry = located.entry
            provider = self._providers.get(entry.provider)
            if provider is None:
                known = sorted(self._providers)
                hint = suggestion(entry.provider, known) if known else "there are none"
                text = f'there is no provider "{entry.provider}"; {hint}'
                self._problems.append(located.problem(("provider",), text))
                continue
            if entry.provider in seen:
                text = f'the provider "{entry.provider}" offers this model twice; remove one of the offers'
                self._problems.append(located.problem(("provider",), text))
            seen.add(entry.provider)
            params = self._params(located)
            videos = self._video_facts(located)
            priced_as = self._priced_as[entry.provider]
            prices, source = _Pricing(model.entry.id, made, located, priced_as, self._problems).prices()
            yield Offer(
                provider,
                entry.provider_model,
                frozenset(entry.endpoints),
                params,
                prices,
                source,
                model.entry.max_output_tokens,
                _input_types(model.entry, entry),
                entry.context_length or model.entry.context_length,
                _embedding_facts(self._embeddings.get(entry.provider), entry.embeddings),
                made,
                videos,
            )

    def _video_facts(self, offer: Located[OfferEntry]) -> VideoFacts:
        facts = _video_facts(self._videos.get(offer.entry.provider), offer.entry.videos)
        for default, among, name in (
            (facts.default_seconds, facts.seconds, "seconds"),
            (facts.default_size, facts.sizes, "sizes"),
        ):
            if default is not None and among and default not in among:
                text = (
                    f"the default of its videos, {default}, must be one of their {name}: {', '.join(map(str, among))}"
                )
                self._problems.append(offer.problem((), text))
        return facts

    def _params(self, offer: Located[OfferEntry]) -> frozenset[str] | None:
        """Canonical names; any spelling of any surface is understood."""
        entry = offer.entry
        if entry.params is None:
            return None
        for index, word in enumerate(entry.params):
            if word not in CANONICAL:
                text = f'unknown parameter "{word}"; {suggestion(word, sorted(PARAMETERS))}'
                self._problems.append(offer.problem(("params", index), text))
        return frozenset(CANONICAL[word] for word in entry.params if word in CANONICAL)


def _input_types(model: ModelEntry, offer: OfferEntry) -> frozenset[str] | None:
    """None where neither says: what `GET /v1/models` then lists is no reason to refuse anything."""
    if offer.input_types is not None:
        return frozenset(offer.input_types)
    return frozenset(model.input_types) if "input_types" in model.model_fields_set else None


def _embedding_facts(*entries: EmbeddingsEntry | None) -> EmbeddingFacts:
    """What the last entry that says something of it says, fact by fact."""
    facts: dict[str, Any] = {}
    for entry in entries:
        if entry is not None:
            facts |= entry.model_dump(exclude_none=True)
    return EmbeddingFacts(**facts)


def _video_facts(*entries: VideosEntry | None) -> VideoFacts:
    """What the last entry that says something of it says, fact by fact."""
    facts: dict[str, Any] = {}
    for entry in entries:
        if entry is not None:
            facts |= entry.model_dump(exclude_none=True)
    facts |= {name: tuple(facts[name]) for name in ("seconds", "sizes", "variants") if name in facts}
    return VideoFacts(**facts | {"fields": frozenset(facts.get("fields", ()))})


class _Pricing:
    """What one offer costs: what its file says, else the default of its provider, else a problem."""

    def __init__(
        self,
        model_id: str,
        made: frozenset[str] | None,
        offer: Located[OfferEntry],
        priced_as: str,
        problems: list[Problem],
    ) -> None:
        self._model_id = model_id
        self._made = made
        self._offer = offer
        self._entry = offer.entry
        self._priced_as = priced_as
        self._problems = problems

    def prices(self) -> tuple[PriceList, PriceSource | None]:
        entry = self._entry
        reader = PriceReader()
        prices = reader.read(entry.price or {}, entry.price_tiers or ())
        if self._model_id.endswith(":free"):
            self._report_all(reader.problems)
            if any(prices.rates.values()) or prices.tiers:
                self._report(("price",), "a :free model has no price; remove it")
            return PriceList(), None
        source: PriceSource = "file"
        if entry.price is None and not entry.price_tiers:
            found = default_prices().find(self._priced_as, entry.provider_model)
            if found is not None:
                tiers = [PriceTierEntry.model_validate(tier) for tier in found.price_tiers]
                prices, source = reader.read(found.price, tiers), "default"
        self._report_all(reader.problems)
        if not prices.rates and not entry.price:
            self._report(("price",), f'has no price; add one, such as {_EXAMPLE} ("0" where it costs nothing)', " ")
        else:
            written = entry.price or prices.rates
            for dimension in missing_dimensions(written, frozenset(entry.endpoints), self._made):
                self._report(("price",), f'has no price for {dimension}; add one ("0" where it costs nothing)', " ")
        return prices, source

    def _report_all(self, problems: list[tuple[YamlPath, str]]) -> None:
        for path, text in problems:
            self._report(path, text)

    def _report(self, path: YamlPath, text: str, link: str = ": ") -> None:
        offer = f'the offer of "{self._model_id}" by "{self._entry.provider}"'
        self._problems.append(self._offer.problem(path, f"{offer}{link}{text}"))
