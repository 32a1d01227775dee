"""Write the files of `catalog/` that have a recipe in `scripts/catalogue/providers/`, from the package `genai-prices`.

    make catalogue                                            # after `make prices`
    .venv/bin/python scripts/import_catalogue.py --check      # says what would change, and changes nothing

A model of a provider is taken where the package has it, doesn't call it deprecated and has a price that can be said
exactly; where `scripts/catalogue/models.yaml` knows it; and where it is at most two years old on the day of the price
table, or `lasting`. What differs between providers is in their recipes. Offers without a price in the files have that
of the table.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import msgspec
import yaml
from catalogue_files import Entry, Price, Writer, differences
from genai_prices import types
from genai_prices.data import providers as all_providers
from import_prices import DIMENSIONS, exact

from server.catalogue.defaults import default_prices

HERE: Final = Path(__file__).parent / "catalogue"
TARGET: Final = Path(__file__).parents[1] / "catalog"
OLDEST: Final = timedelta(days=730)
FREE: Final = ":free"
TEXT_ENDPOINTS: Final = ("chat", "responses", "messages")

Ability = Literal[
    "reasoning", "sampling", "tools", "schemas", "dimensions", "language", "times", "sureness", "instructions"
]
Kind = Literal["text", "embedding", "moderation", "image", "speech", "transcription"]
ENDPOINTS: Final[Mapping[Kind, str]] = {
    "embedding": "embeddings",
    "moderation": "moderations",
    "image": "images",
    "speech": "audio",
    "transcription": "audio",
}
MADE: Final[Mapping[Kind, str]] = {
    "embedding": "embedding",
    "image": "image",
    "speech": "audio",
    "transcription": "text",
}
"""What kinds answer with, where that goes without saying for none."""


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `models.yaml` says of one model; its head explains the words."""

    name: str
    about: str
    takes: tuple[str, ...]
    released: date | None = None
    month: str | None = None
    kind: Kind = "text"
    can: tuple[Ability, ...] = ()
    output: int | None = None
    context: int | None = None
    ends: date | None = None
    aliases: tuple[str, ...] = ()
    lasting: bool = False
    surfaces: tuple[str, ...] = TEXT_ENDPOINTS

    def is_current(self, day: date) -> bool:
        if self.ends is not None and self.ends <= day:
            return False
        return self.lasting or (self.released or date.fromisoformat(f"{self.month}-01")) >= day - OLDEST


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"as_": "as"}):
    """How one provider's file is made.

    `about`: the comment at its head. `provider`: its entry as it is; `embedding_provider`: another one, for embeddings.
    `prices`: its id in `genai-prices`. `author`: whose models it makes itself; it has no others, but by `as_`.
    `exact`: its names are ids here. `prefix`: which of its names count; `skip`: which the package has by mistake.
    `as_`: the ids of names that say something else here. `drop`: what its names have at their end and the ids have not.
    `call`: what its API calls a name of the package; else `called` with the name in it. `free`: what it charges nothing
    for, by the name that its API has, with the id that the model would have without `:free`. `takes`: what may be in a
    prompt of any of its models. `params`: which parameters go with which ability; `every` and `always` go with all.
    `models`: entries as they are.
    """

    about: str
    provider: Entry
    prices: str
    takes: tuple[str, ...]
    params: dict[str, tuple[str, ...]]
    embedding_provider: Entry | None = None
    author: str | None = None
    exact: bool = False
    prefix: str = ""
    skip: tuple[str, ...] = ()
    as_: dict[str, str] = {}
    drop: tuple[str, ...] = ()
    call: dict[str, str] = {}
    called: str = "{}"
    free: dict[str, str] = {}
    models: tuple[Entry, ...] = ()


class Offered(msgspec.Struct, frozen=True):
    """One offer that was taken: `context` as the package has it, `by_maker` where the provider is the author."""

    id: str
    facts: Facts
    recipe: Recipe
    provider_model: str
    by_maker: bool
    context: int | None = None
    price: Mapping[str, str] | None = None


class Import:
    """One pass over recipes, facts and the package; `not_taken` tells by reason which names were passed over."""

    def __init__(self, day: date) -> None:
        self._day = day
        known = yaml.safe_load((HERE / "models.yaml").read_text(encoding="utf-8"))
        self._facts = msgspec.convert(known, dict[str, Facts])
        self._by_slug = {slug(id_): id_ for id_ in self._facts}
        self._recipes = {path.stem: read_recipe(path) for path in sorted((HERE / "providers").glob("*.yaml"))}
        self._package = {provider.id: provider for provider in all_providers}
        self.not_taken: dict[str, list[str]] = {}

    def run(self) -> dict[str, str]:
        """The text of every file, by its name."""
        offered = [offer for recipe in self._recipes.values() for offer in self._offers(recipe)]
        order = {id_: number for number, id_ in enumerate(self._facts)}
        offered.sort(key=lambda offer: (order[offer.id.removesuffix(FREE)], offer.id, not offer.by_maker))
        self._pass_over("is offered by nobody", (id_ for id_ in self._facts if id_ not in {plain(o) for o in offered}))
        homes: dict[str, str] = {}
        for offer in offered:
            homes.setdefault(offer.id, offer.recipe.provider["id"])
        return {f"{name}.yaml": self._file(recipe, offered, homes) for name, recipe in self._recipes.items()}

    def _pass_over(self, reason: str, names: Iterable[str]) -> None:
        self.not_taken.setdefault(reason, []).extend(names)

    def _offers(self, recipe: Recipe) -> Iterator[Offered]:
        provider_id = recipe.provider["id"]
        for name, free in recipe.free.items():
            yield Offered(f"{free}{FREE}", self._facts[free], recipe, name, self._is_maker(recipe, free))
        taken: set[str] = set()
        for model in self._package[recipe.prices].models:
            where = f"{provider_id}: {model.id}"
            if model.deprecated or model.id in recipe.skip or model.id.endswith(FREE):
                continue
            if not model.id.startswith(recipe.prefix):
                continue
            id_ = self._id(recipe, model.id)
            facts = self._facts.get(id_ or "")
            if id_ is None or facts is None:
                self._pass_over("is not known", [where])
                continue
            if not facts.is_current(self._day):
                self._pass_over("is out of date", [where])
                continue
            if id_ in taken or (facts.kind != "text" and not self._is_maker(recipe, id_)):
                continue
            called = recipe.call.get(model.id) or recipe.called.format(model.id)
            is_priced = default_prices().find(recipe.prices, called) is not None
            price = None if is_priced else dearest(model)
            if not is_priced and price is None:
                self._pass_over("has no price", [where])
                continue
            taken.add(id_)
            yield Offered(id_, facts, recipe, called, self._is_maker(recipe, id_), model.context_window, price)

    def _is_maker(self, recipe: Recipe, id_: str) -> bool:
        return recipe.author == id_.partition("/")[0]

    def _id(self, recipe: Recipe, name: str) -> str | None:
        if name in recipe.as_:
            return recipe.as_[name]
        if recipe.exact:
            return name if name in self._facts else None
        for end in recipe.drop:
            name = name.removesuffix(end)
        id_ = self._by_slug.get(slug(name))
        return id_ if id_ is not None and recipe.author in (None, id_.partition("/")[0]) else None

    def _file(self, recipe: Recipe, offered: Sequence[Offered], homes: Mapping[str, str]) -> str:
        provider_id = recipe.provider["id"]
        own = [offer for offer in offered if offer.recipe is recipe]
        writer = Writer(recipe.about, f"scripts/catalogue, {default_prices().source}")
        also = recipe.embedding_provider
        writer.key("providers", [recipe.provider] if also is None else [recipe.provider, also])
        at_home = [offer for offer in own if homes[offer.id] == provider_id]
        writer.key("models", [*recipe.models, *(self._model(offer, offered) for offer in at_home)])
        writer.key("offers", [self._offer(offer, offered, True) for offer in own if homes[offer.id] != provider_id])
        return writer.text()

    def _model(self, offer: Offered, offered: Sequence[Offered]) -> Entry:
        facts = offer.facts
        same = plain(offer)
        ids = {other.id for other in offered}
        both = offer.id != same and same in ids
        aliases = [] if both else list(facts.aliases)
        if offer.by_maker and offer.id == same and offer.provider_model not in (same, *aliases):
            aliases.insert(0, offer.provider_model)
        return compact(
            id=offer.id,
            name=f"{facts.name} (free)" if both else facts.name,
            description=facts.about,
            organisation_id=same.partition("/")[0],
            release_date=facts.released,
            status="deprecated" if facts.ends is not None else None,
            aliases=aliases,
            input_types=list(facts.takes),
            output_types=[MADE[facts.kind]] if facts.kind in MADE else None,
            context_length=length_of(offer.id, offered),
            max_output_tokens=facts.output,
            offers=[self._offer(offer, offered, False)],
        )

    def _offer(self, offer: Offered, offered: Sequence[Offered], elsewhere: bool) -> Entry:
        facts, recipe = offer.facts, offer.recipe
        takes = [kind for kind in facts.takes if kind in recipe.takes]
        context = length_of(offer.id, offered)
        shorter = offer.context is not None and context is not None and offer.context < context
        return compact(
            model=offer.id if elsewhere else None,
            provider=provider_of(offer),
            provider_model=offer.provider_model,
            endpoints=list(endpoints(offer)) if tuple(endpoints(offer)) != TEXT_ENDPOINTS else None,
            input_types=takes if takes != list(facts.takes) else None,
            context_length=offer.context if shorter else None,
            params=tuple(parameters(offer)),
            price=offer.price and {dimension: Price(text) for dimension, text in offer.price.items()},
        )


def read_recipe(path: Path) -> Recipe:
    return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Recipe)


def slug(name: str) -> str:
    """What names of one model have in common: `accounts/x/kimi-k3p1-pro` and `moonshotai/kimi-k3.1-pro` are one."""
    last = name.lower().rpartition("/")[2]
    return re.sub(r"(\d)p(\d)", r"\1.\2", last).replace(".", "-").replace("_", "-")


def plain(offer: Offered) -> str:
    return offer.id.removesuffix(FREE)


def provider_of(offer: Offered) -> str:
    apart = offer.recipe.embedding_provider if offer.facts.kind == "embedding" else None
    return str((apart or offer.recipe.provider)["id"])


def length_of(id_: str, offered: Sequence[Offered]) -> int | None:
    """The model's context: as its maker has it, else as `models.yaml` does, else the longest of its offers."""
    same = [offer for offer in offered if offer.id == id_]
    of_maker = [offer.context for offer in same if offer.by_maker and offer.context is not None]
    known = [offer.facts.context for offer in same if offer.facts.context is not None]
    others = sorted((offer.context for offer in same if offer.context is not None), reverse=True)
    return next(iter([*of_maker, *known, *others]), None)


def endpoints(offer: Offered) -> Sequence[str]:
    if offer.facts.kind in ENDPOINTS:
        return (ENDPOINTS[offer.facts.kind],)
    return offer.facts.surfaces if offer.by_maker else TEXT_ENDPOINTS


def parameters(offer: Offered) -> Iterator[str]:
    sets = offer.recipe.params
    if offer.facts.kind != "text":
        yield from (param for name in (offer.facts.kind, *offer.facts.can) for param in sets.get(name, ()))
        return
    for name, params in sets.items():
        if name in ("every", "always", *offer.facts.can):
            yield from params


def dearest(model: types.ModelInfo) -> dict[str, str] | None:
    """The highest of the prices that a model has at the hours of a day; None where that is not why it has none."""
    conditional = model.prices if isinstance(model.prices, list) else []
    hourly = [one.prices for one in conditional if isinstance(one.constraint, types.TimeOfDateConstraint)]
    if not hourly:
        return None
    morning = datetime(2000, 1, 1, tzinfo=UTC)
    highest: dict[str, str] = {}
    for prices in (*hourly, model.get_prices(morning)):
        for key, value in prices.__dict__.items():
            if value is None or key not in DIMENSIONS or isinstance(value, types.TieredPrices):
                continue
            dimension, units = DIMENSIONS[key]
            text = exact(dimension, value * units)
            if dimension not in highest or float(text) > float(highest[dimension]):
                highest[dimension] = text
    return highest


def compact(**entry: Any) -> Entry:
    """Without what is not there. An empty tuple is there."""
    return {key: value for key, value in entry.items() if value is not None and value != []}


def say(*lines: str, to: TextIO | None = None) -> None:
    (to or sys.stdout).write("".join(f"{line}\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file would change")
    parser.add_argument("--passed-over", action="store_true", help="also tell which models were not taken, and why")
    arguments = parser.parse_args()
    run = Import(date.fromisoformat(default_prices().as_of))
    changed = False
    for name, text in run.run().items():
        path = TARGET / name
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if before == text:
            continue
        changed = True
        told = list(differences(name, before, text)) or [f"~ {name}: only its form"]
        say(*told)
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    for reason, names in run.not_taken.items():
        say(f"{len(names)} not taken: {reason}", to=sys.stderr)
        if arguments.passed_over:
            say(*(f"  {one}" for one in names), to=sys.stderr)
    if not changed:
        say("Nothing changes.")
    sys.exit(1 if arguments.check and changed else 0)


if __name__ == "__main__":
    main()
