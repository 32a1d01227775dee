"""PricingService: what models cost, and what given usage would cost."""

from __future__ import annotations

from aistats.gateway.v1 import pricing_pb2, pricing_pb2_grpc
from server.domain import limits
from server.domain.money import CURRENCY, UNIT_SIZE
from server.domain.ports import CatalogSource
from server.domain.pricing import DIMENSIONS, PriceTier
from server.domain.usage import Usage
from server.pipeline.pricing import MAX_QUANTITY, Listed, PriceFilter, Quantities, Question, calculate, list_prices
from server.rpc.context import CallContext
from server.rpc.convert import encode_pricing

__all__ = ["PricingServicer"]


class PricingServicer(pricing_pb2_grpc.PricingServiceServicer):
    """Its methods take our own `CallContext`, so that any host can carry them."""

    def __init__(self, catalogs: CatalogSource) -> None:
        self._catalogs = catalogs

    async def CalculatePricing(  # type: ignore[override]  # the context is our own
        self, request: pricing_pb2.CalculatePricingRequest, context: CallContext
    ) -> pricing_pb2.CalculatePricingResponse:
        answer = calculate(self._catalogs.current, _decode_question(request))
        return pricing_pb2.CalculatePricingResponse(
            model=answer.model.id,
            service_tier=request.service_tier,
            offers=[
                pricing_pb2.OfferPricing(
                    provider=one.offer.provider.id,
                    provider_model=one.offer.provider_model,
                    pricing=encode_pricing(one.pricing),
                )
                for one in answer.offers
            ],
        )

    async def ListPricingModels(  # type: ignore[override]  # the context is our own
        self, request: pricing_pb2.ListPricingModelsRequest, context: CallContext
    ) -> pricing_pb2.ListPricingModelsResponse:
        wanted = PriceFilter(
            request.model,
            request.provider,
            request.endpoint,
            request.limit if request.HasField("limit") else None,
            request.offset if request.HasField("offset") else None,
        )
        page = list_prices(self._catalogs.current, wanted)
        return pricing_pb2.ListPricingModelsResponse(
            limit=page.limit,
            offset=page.offset,
            total=page.total,
            models=[_encode_listed(listed) for listed in page.offers],
        )


def _decode_question(request: pricing_pb2.CalculatePricingRequest) -> Question:
    if not request.model:
        raise limits.missing_field("model")
    if request.HasField("tokens") and request.quantities:
        raise limits.invalid_value("quantities", "cannot be given together with tokens")
    used: Usage | Quantities
    if request.HasField("tokens"):
        path, used = "tokens", _decode_tokens(request.tokens)
    elif request.quantities:
        path, used = "quantities", dict(request.quantities)
        for dimension, quantity in used.items():
            limits.check_choice(dimension, sorted(DIMENSIONS), "quantities")
            _check_quantity(quantity, f"quantities.{dimension}")
    else:
        raise limits.missing_field("tokens")
    return Question(request.model, used, request.provider or None, request.service_tier or None, path)


def _decode_tokens(tokens: pricing_pb2.TokenCounts) -> Usage:
    for field, count in tokens.ListFields():
        _check_quantity(count, f"tokens.{field.name}")
    return Usage(
        input_tokens=tokens.input_tokens,
        output_tokens=tokens.output_tokens,
        cached_input_tokens=tokens.cached_input_tokens,
        cache_write_tokens=tokens.cache_write_tokens,
        reasoning_tokens=tokens.reasoning_tokens,
        input_audio_tokens=tokens.input_audio_tokens,
        output_audio_tokens=tokens.output_audio_tokens,
    )


def _check_quantity(quantity: int, param: str) -> None:
    if quantity > MAX_QUANTITY:
        raise limits.invalid_value(param, f"must be at most {MAX_QUANTITY}")


def _encode_listed(listed: Listed) -> pricing_pb2.PricingModel:
    offer = listed.offer
    return pricing_pb2.PricingModel(
        model=listed.model.id,
        provider=offer.provider.id,
        provider_model=offer.provider_model,
        endpoints=sorted(offer.endpoints),
        currency=CURRENCY,
        unit_size=UNIT_SIZE,
        price_nanos=offer.prices.rates,
        tiers=[_encode_tier(tier) for tier in offer.prices.tiers],
    )


def _encode_tier(tier: PriceTier) -> pricing_pb2.PricingTier:
    return pricing_pb2.PricingTier(
        input_tokens_above=tier.input_tokens_above or None,
        service_tier=tier.service_tier,
        price_nanos=tier.rates,
    )
