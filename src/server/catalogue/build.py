"""Files of the right shape become one catalogue, or a list of everything in them that makes no sense together.

The operator's file comes last and wins: an entry with the id of a shipped one replaces it whole, and an offer that is
added to a model takes the place of the one that the same provider had there. What a shipped file
cannot do for want of a variable leaves a provider unconfigured; in the operator's own file it is a problem, because
there a misspelt variable would send traffic somewhere else without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from server.catalogue.defaults import default_prices
from server.catalogue.files import (
    AddedOfferEntry,
    Located,
    ModelEntry,
    OfferEntry,
    ParsedFile,
    ProviderEntry,
    RoutingEntry,
)
from server.catalogue.offers import Offers
from server.catalogue.problems import Problem, suggestion
from server.domain.addresses import danger_of_host
from server.domain.catalog import Catalog, Model, Offer, Provider, ProviderProfile, Routing

_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PROFILE_KEYS: Final = (
    "max_tokens_field",
    "reasoning_tokens",
    "system_role",
    "stream_usage",
    "tool_call_start",
    "seed_field",
    "reasoning_field",
    "needs_reasoning",
    "thinking_switch",
    "format_with_tools",
    "strict_tools",
    "agent_api",
    "speaker_names",
    "refusals",
    "empty_turns",
    "audio",
    "tool_call_id_length",
    "image_response_format",
    "transcript_formats",
    "form_arrays",
)

ReadKey = Callable[[ParsedFile, str], "str | None"]
"""The content of a key file as its entry spells it, stripped; None where there is none to be read."""

_Entry = TypeVar("_Entry", ProviderEntry, ModelEntry)


def build(files: Sequence[ParsedFile], environ: Mapping[str, str], read_key: ReadKey) -> tuple[Catalog, list[Problem]]:
    """One catalogue; it may only be used where there are no problems."""
    problems: list[Problem] = []
    all_providers = [
        Located(entry, file, ("providers", index))
        for file in files
        for index, entry in enumerate(file.content.providers or ())
    ]
    all_models = [
        Located(entry, file, ("models", index))
        for file in files
        for index, entry in enumerate(file.content.models or ())
    ]
    located_providers = _merge(all_providers, "provider", problems)
    providers = {
        id_: _Provider(located, environ, read_key, problems).build() for id_, located in located_providers.items()
    }
    located_models = _merge(all_models, "model", problems)
    priced_as = {id_: located.entry.prices_as or id_ for id_, located in located_providers.items()}
    embeddings = {
        id_: entry for id_, located in located_providers.items() if (entry := located.entry.embeddings) is not None
    }
    videos = {id_: one for id_, located in located_providers.items() if (one := located.entry.videos) is not None}
    offers = Offers(providers, priced_as, embeddings, videos, problems)
    aliases = _aliases(located_models, problems)
    offered = _offered(files, located_models, aliases, problems)
    models = {
        id_: _model(located, offers.of(located, offered[id_]), problems) for id_, located in located_models.items()
    }
    return Catalog(providers, models, aliases, _routing(files)), problems


def _merge(found: Sequence[Located[_Entry]], kind: str, problems: list[Problem]) -> dict[str, Located[_Entry]]:
    """By id, in order; one of the operator's takes the place of a shipped one."""
    merged: dict[str, Located[_Entry]] = {}
    for located in found:
        id_ = located.entry.id
        earlier = merged.get(id_)
        if earlier is not None and earlier.file.shipped == located.file.shipped:
            problems.append(located.problem(("id",), f'the {kind} "{id_}" is here twice; remove one of them'))
            continue
        merged[id_] = located
    return merged


def _offered(
    files: Sequence[ParsedFile],
    models: Mapping[str, Located[ModelEntry]],
    aliases: Mapping[str, str],
    problems: list[Problem],
) -> dict[str, list[Located[OfferEntry]]]:
    """The offers of each model, by its id: those that stand with it, then those that other places add."""
    offered: dict[str, list[Located[OfferEntry]]] = {}
    for id_, model in models.items():
        entries = enumerate(model.entry.offers or ())
        offered[id_] = [Located(entry, model.file, (*model.path, "offers", index)) for index, entry in entries]
    for file in files:
        for index, entry in enumerate(file.content.offers or ()):
            _add_offer(offered, Located(entry, file, ("offers", index)), models, aliases, problems)
    for id_, model in models.items():
        if not offered[id_]:
            problems.append(model.problem(("offers",), f'nobody offers the model "{id_}"; add an offer'))
    return offered


def _add_offer(
    offered: dict[str, list[Located[OfferEntry]]],
    added: Located[AddedOfferEntry],
    models: Mapping[str, Located[ModelEntry]],
    aliases: Mapping[str, str],
    problems: list[Problem],
) -> None:
    """A shipped offer is for shipped models only: an operator's model is what its own file says."""
    entry = added.entry
    model_id = aliases.get(entry.model, entry.model)
    model = models.get(model_id)
    if model is None:
        text = f'there is no model "{entry.model}"; {suggestion(entry.model, sorted(models))}'
        problems.append(added.problem(("model",), text))
        return
    if added.file.shipped and not model.file.shipped:
        return
    here = offered[model_id]
    for number, other in enumerate(here):
        if other.entry.provider == entry.provider and other.file.shipped and not added.file.shipped:
            here[number] = Located[OfferEntry](entry, added.file, added.path)
            return
    here.append(Located[OfferEntry](entry, added.file, added.path))


class _Provider:
    """Builds one provider."""

    def __init__(
        self,
        located: Located[ProviderEntry],
        environ: Mapping[str, str],
        read_key: ReadKey,
        problems: list[Problem],
    ) -> None:
        self._located = located
        self._entry = located.entry
        self._shipped = located.file.shipped
        self._environ = environ
        self._read_key = read_key
        self._problems = problems

    def build(self) -> Provider:
        entry = self._entry
        missing_key_env: str | None = None
        base_url, unset = self._base_url()
        self._check_prices_as()
        key = self._key()
        if entry.api_key_env is not None and key is None and self._shipped:
            missing_key_env = entry.api_key_env
        return Provider(
            id=entry.id,
            dialect=entry.dialect,
            base_url=base_url,
            api_key=key,
            missing_key_env=missing_key_env,
            profile=_profile(entry),
            name=entry.name or entry.id,
            unavailable_reason=(entry.setup or f"set {unset}") if unset else None,
            on_disconnect=entry.on_disconnect or "cancel",
            region=entry.region,
            allow_link_local=entry.allow_link_local,
            prices_as=entry.prices_as,
        )

    def _check_prices_as(self) -> None:
        """Defaults that do not exist are a slip of the pen, even where every offer has a price of its own."""
        priced_as = self._entry.prices_as
        if priced_as is not None and priced_as not in (known := default_prices().providers):
            self._report(
                "prices_as", f'there are no default prices of "{priced_as}"; {suggestion(priced_as, sorted(known))}'
            )

    def _report(self, key: str, text: str) -> None:
        self._problems.append(self._located.problem((key,), f'provider "{self._entry.id}": {text}'))

    def _variable(self, name: str) -> str | None:
        """A variable's value; None where it is not set, empty or blank."""
        return self._environ.get(name, "").strip() or None

    def _base_url(self) -> tuple[str, str | None]:
        """The address with its variables filled in, and the first variable that is missing."""
        missing: list[str] = []

        def fill(match: re.Match[str]) -> str:
            name = match[1]
            if not _VARIABLE_NAME.fullmatch(name):
                self._report("base_url", "write a variable as ${NAME}")
                return ""
            value = self._variable(name)
            if value is None:
                missing.append(name)
            return value or ""

        text = _VARIABLE.sub(fill, self._entry.base_url).strip().rstrip("/")
        if not missing:
            wrong = _wrong_address(text, self._entry.allow_link_local)
            if wrong is not None:
                self._report("base_url", wrong)
            return text, None
        if not self._shipped:
            names = ", ".join(dict.fromkeys(missing))
            self._report("base_url", f"the variable {names} is not set, or blank; set it or write the address")
        return "", missing[0]

    def _key(self) -> str | None:
        env, file = self._entry.api_key_env, self._entry.api_key_file
        if env is not None and file is not None:
            self._report("api_key_file", "api_key_env and api_key_file exclude each other; remove one")
            return None
        key: str | None = None
        if env is not None:
            key = self._variable(env)
            if key is None and not self._shipped:
                text = f"the variable {env} is not set, or blank; set it, or leave api_key_env out to send no key"
                self._report("api_key_env", text)
        elif file is not None:
            key = self._read_key(self._located.file, file)
            if key is None:
                self._report("api_key_file", f"the file {file} is missing, empty or not readable")
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            where = "api_key_env" if env is not None else "api_key_file"
            self._report(where, "the key holds spaces, line breaks or other characters that no header can carry")
        return key


def _wrong_address(text: str, allow_link_local: bool) -> str | None:
    """What is wrong with an upstream's address; never repeats it, for it may hold a password.

    What its name resolves to is looked at whenever a connection is made.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not an address such as https://api.example.com/v1"
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return "must be an address such as https://api.example.com/v1"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user or password; use api_key_env or api_key_file"
    if parts.query or parts.fragment or not text.isascii() or not text.isprintable() or " " in text:
        return "must end with its path, and hold no spaces, ? or #"
    match danger_of_host(host):
        case "nowhere":
            return "is the address of no single machine; write that of one (this machine is 127.0.0.1)"
        case "link_local" if not allow_link_local:
            return "is link-local, or where a cloud keeps its metadata; where that is meant, add allow_link_local: true"
        case _:
            return None


def _profile(entry: ProviderEntry) -> ProviderProfile:
    facts = {key: value for key in _PROFILE_KEYS if (value := getattr(entry, key)) is not None}
    if entry.apis is not None:
        facts["apis"] = frozenset(entry.apis)
    if entry.output_formats is not None:
        facts["output_formats"] = frozenset(entry.output_formats)
    if entry.tool_choices is not None:
        facts["tool_choices"] = frozenset(entry.tool_choices)
    return ProviderProfile(**facts)


def _model(located: Located[ModelEntry], offers: Iterable[Offer], problems: list[Problem]) -> Model:
    entry = located.entry
    created = 0
    if entry.release_date is not None:
        try:
            created = int(datetime.strptime(entry.release_date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
        except ValueError:
            problems.append(located.problem(("release_date",), "there is no such day"))
    return Model(
        id=entry.id,
        offers=tuple(offers),
        name=entry.name or entry.id,
        description=entry.description,
        organisation_id=entry.organisation_id or entry.id.partition("/")[0],
        created=created,
        release_date=entry.release_date,
        status=entry.status,
        aliases=tuple(entry.aliases),
        input_types=tuple(entry.input_types),
        output_types=tuple(entry.output_types),
        context_length=entry.context_length,
        max_output_tokens=entry.max_output_tokens,
    )


def _aliases(models: Mapping[str, Located[ModelEntry]], problems: list[Problem]) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for id_, located in models.items():
        for index, alias in enumerate(located.entry.aliases):
            taken = alias if alias in models else aliases.get(alias)
            if taken is not None:
                text = f'the alias "{alias}" is taken by the model "{taken}"; choose another'
                problems.append(located.problem(("aliases", index), text))
                continue
            aliases[alias] = id_
    return aliases


def _routing(files: Sequence[ParsedFile]) -> Routing:
    """What the last file that says something about it says, over the defaults."""
    facts: dict[str, float | int] = {}
    for file in files:
        entry = file.content.routing or RoutingEntry()
        facts |= {key: value for key, value in entry.model_dump().items() if value is not None}
    return msgspec.convert(facts, Routing)
