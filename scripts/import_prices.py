"""Write `src/server/catalogue/default_prices.json` from the data of the package `genai-prices`.

    make prices                                                  # the prices of today
    .venv/bin/python scripts/import_prices.py --date 2026-11-22  # of another day

What cannot be said exactly is left out and told on standard error: the gateway then has no price for that model, and
asks its operator for one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from genai_prices import types
from genai_prices.data import providers as all_providers

from server.catalogue.defaults import FILE, REGEX
from server.catalogue.prices import PriceError, read_price
from server.domain.pricing import STANDARD_TIERS

PACKAGE: Final = "genai-prices"
TARGET: Final = Path(__file__).parents[1] / "src" / "server" / "catalogue" / FILE

DIMENSIONS: Final[Mapping[str, tuple[str, Decimal]]] = {
    "input_mtok": ("input_text_tokens", Decimal(1)),
    "output_mtok": ("output_text_tokens", Decimal(1)),
    "cache_read_mtok": ("cached_read_text_tokens", Decimal(1)),
    "cache_write_mtok": ("cached_write_text_tokens", Decimal(1)),
    "output_reasoning_mtok": ("reasoning_text_tokens", Decimal(1)),
    "input_audio_mtok": ("input_audio_tokens", Decimal(1)),
    "output_audio_mtok": ("output_audio_tokens", Decimal(1)),
    "cache_audio_read_mtok": ("cached_read_audio_tokens", Decimal(1)),
    "input_image_mtok": ("input_image_tokens", Decimal(1)),
    "output_image_mtok": ("output_image_tokens", Decimal(1)),
    "cache_image_read_mtok": ("cached_read_image_tokens", Decimal(1)),
    "input_video_mtok": ("input_video_tokens", Decimal(1)),
    "output_video_mtok": ("output_video_tokens", Decimal(1)),
    "input_mchars": ("input_characters", Decimal(1)),
    "requests_kcount": ("requests", Decimal(1000)),
    "web_searches_kcount": ("web_searches", Decimal(1000)),
}
"""By the package's key: the dimension here, and how many of its units make a million."""

BY_THE_HOUR: Final[Mapping[str, str]] = {"input_audio_hours": "input_audio_seconds"}
"""What the package has by the hour and we by the second, where that can be said exactly; else it is passed over."""

Prices = dict[str, str]
Tier = dict[str, Any]


class LeftOut(Exception):
    """The model cannot be priced from the package's data; the message says why."""


class CostsNothing(Exception):
    """The package says that the model is free, which only the catalogue's own file may say."""


class Import:
    """One pass over the package's data, for the prices of the day `as_of`."""

    def __init__(self, as_of: date) -> None:
        self._as_of = as_of
        self._morning = datetime.combine(as_of, time(), UTC)
        self.free = 0
        self.left_out: list[str] = []
        self.unknown_keys: Counter[str] = Counter()

    def run(self) -> str:
        """The whole file."""
        source = json.dumps(f"{PACKAGE} {version(PACKAGE)}")
        providers = ",\n".join(self._provider(provider) for provider in all_providers)
        return f'{{"source": {source},\n"as_of": "{self._as_of}",\n"providers": {{\n{providers}\n}}}}\n'

    def _provider(self, provider: types.Provider) -> str:
        models = (self._model(provider.id, model) for model in provider.models)
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in models)
        fallback = json.dumps(provider.fallback_model_providers or [])
        return f'"{provider.id}": {{"fallback": {fallback}, "models": [\n{lines}\n]}}'

    def _model(self, provider_id: str, model: types.ModelInfo) -> dict[str, Any]:
        """What is left out keeps its names, lest the price of another model be taken for its own."""
        entry: dict[str, Any] = {"match": patterns(model.match)}
        try:
            entry["price"], tiers = self._prices(model)
        except CostsNothing:
            self.free += 1
            return entry
        except LeftOut as reason:
            self.left_out.append(f"{provider_id}: {model.id}: {reason}")
            return entry
        return {**entry, "price_tiers": tiers} if tiers else entry

    def _prices(self, model: types.ModelInfo) -> tuple[Prices, list[Tier]]:
        conditional = model.prices if isinstance(model.prices, list) else ()
        if any(isinstance(one.constraint, types.TimeOfDateConstraint) for one in conditional):
            raise LeftOut("its price depends on the time of day")
        price, tiers = self._split(model.get_prices(self._morning), None)
        if not any(Decimal(value) for value in price.values()):
            raise CostsNothing
        for service_tier, prices in self._of_service_tiers(model).items():
            flat, beyond = self._split(prices, service_tier)
            own = [{"when": {"service_tier": service_tier}, "price": flat}, *beyond]
            tiers += [tier for tier in own if tier["price"]]
        for tier in tiers:
            if extra := tier["price"].keys() - price.keys():
                raise LeftOut(f"a tier has a price for {', '.join(sorted(extra))}, which has none of its own")
        return price, tiers

    def _of_service_tiers(self, model: types.ModelInfo) -> dict[str, types.ModelPrice]:
        """What each service tier changes; of several that change the same price the first holds."""
        changes: dict[str, dict[str, Any]] = {}
        for variant in model.price_variants or ():
            service_tier = variant.when.get("service_tier", "")
            active = variant.constraint is None or variant.constraint.active(self._morning)
            if active and len(variant.when) == 1 and service_tier not in STANDARD_TIERS:
                changes[service_tier] = {**variant.prices.__dict__, **changes.get(service_tier, {})}
        return {service_tier: types.ModelPrice(**prices) for service_tier, prices in changes.items()}

    def _split(self, prices: types.ModelPrice, service_tier: str | None) -> tuple[Prices, list[Tier]]:
        """Base prices, and a tier for every length of input that changes some of them."""
        base: Prices = {}
        beyond: dict[int, Prices] = {}
        for key, value in prices.__dict__.items():
            if value is None:
                continue
            if key in BY_THE_HOUR and not (value * 1_000_000) % 3600:
                base[BY_THE_HOUR[key]] = exact(BY_THE_HOUR[key], value * 1_000_000 / 3600)
                continue
            if key not in DIMENSIONS:
                self.unknown_keys[key] += 1
                continue
            dimension, units = DIMENSIONS[key]
            if isinstance(value, types.TieredPrices):
                base[dimension] = exact(dimension, value.base * units)
                for step in value.tiers:
                    beyond.setdefault(step.start, {})[dimension] = exact(dimension, step.price * units)
            else:
                base[dimension] = exact(dimension, value * units)
        tiers: list[Tier] = []
        for start, rates in sorted(beyond.items()):
            when: dict[str, int | str] = {"input_tokens_above": start}
            if service_tier is not None:
                when["service_tier"] = service_tier
            tiers.append({"when": when, "price": rates})
        return base, tiers


def exact(dimension: str, price: Decimal) -> str:
    """USD per million as the catalogue's files spell it. Raises LeftOut where they cannot."""
    text = format(price.normalize(), "f")
    try:
        read_price(dimension, text)
    except PriceError as error:
        raise LeftOut(f"{dimension}: {error}") from None
    return text


def patterns(clause: Any) -> list[str | list[str]]:
    """A clause as the patterns of `DefaultPrice.match`."""
    match clause:
        case types.ClauseOr(or_=clauses):
            return [pattern for one in clauses for pattern in patterns(one)]
        case types.ClauseAnd(and_=clauses):
            return [[pattern for one in clauses for pattern in simple(one)]]
        case _:
            return list(simple(clause))


def simple(clause: Any) -> Iterable[str]:
    match clause:
        case types.ClauseRegex(regex=text):
            yield f"{REGEX}{text}"
            return
        case types.ClauseEquals(equals=text):
            form = "{}"
        case types.ClauseStartsWith(starts_with=text):
            form = "{}*"
        case types.ClauseEndsWith(ends_with=text):
            form = "*{}"
        case types.ClauseContains(contains=text):
            form = "*{}*"
        case _:
            raise TypeError(f"{type(clause).__name__} cannot be written as patterns")
    if "*" in text or text.startswith(REGEX) or not text:
        raise ValueError(f"{text!r} cannot be written as a pattern")
    yield form.format(text.lower())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--date", type=date.fromisoformat, required=True, help="the day whose prices are written")
    run = Import(parser.parse_args().date)
    TARGET.write_text(run.run(), encoding="utf-8")
    report = [f"left out: {run.free} models that cost nothing", *(f"left out: {line}" for line in run.left_out)]
    report += [f"no dimension for {key}: {count} models" for key, count in run.unknown_keys.most_common()]
    sys.stderr.write("\n".join(report) + "\n")


if __name__ == "__main__":
    main()
