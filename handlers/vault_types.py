"""The vault surface's requests and answers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from engine import context
from engine.errors import AmountRefused, PaymentMethodRefused
from engine.facts import Status
from engine.ids import rfc3339
from engine.money import Money, parse_amount
from engine.payment import Payment
from engine.purchase import WORDS, Line, Purchase, updated_ms
from engine.vault_card import StoredCard, check_cvv, expiry_text, masked, parse_expire_date, parse_number
from engine.vault_cards import AddCard
from engine.vault_paying import PayCheckout
from handlers.http import HttpRefused, decode

QUANTITY_MAX: Final = 10_000
PRODUCTS_MAX: Final = 200
CHECKOUT_LENGTH_MAX: Final = 128
_ZERO: Final = re.compile(r"-?0(?:\.0+)?(?:[eE][-+]?[0-9]+)?\Z")
_NUMBER_MAX: Final = 32
_NUMBER_LIKE: Final = re.compile(r"[0-9](?:[ -]?[0-9]){11}")

Ref = Annotated[str, Meta(min_length=1, max_length=128)]
Holder = Annotated[str, Meta(min_length=1, max_length=100, examples=["Jo Doe"])]
Address = Annotated[str, Meta(min_length=1, max_length=500, examples=["1 High Street, Springfield"])]
UserRef = Annotated[Ref, Meta(examples=["550e8400-e29b-41d4-a716-446655440001"])]
CardRef = Annotated[str, Meta(examples=["card-01kqxw3v5n8t2r7d9m4c6b1hzj2a"])]
PaymentRef = Annotated[str, Meta(examples=["pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a"])]
Masked = Annotated[str, Meta(description="The last four digits alone", examples=["************4242"])]
Expiry = Annotated[str, Meta(examples=["12/30"])]
Time = Annotated[
    str, Meta(extra_json_schema={"format": "date-time"}, description="UTC", examples=["2026-05-06T07:08:09.123Z"])
]


def _amount(description: str, example: float, *, above: bool = False) -> Meta:
    bound = {"exclusiveMinimum": 0} if above else {"minimum": 0}
    return Meta(extra_json_schema={"type": "number", **bound}, description=description, examples=[example])


def _digits(pattern: str, description: str, example: Any) -> Meta:
    extra = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": pattern}], "writeOnly": True}
    return Meta(extra_json_schema=extra, description=description, examples=[example])


Price = Annotated[Raw, _amount("Of one, with the currency's decimals at most", 29.99)]


class AddCreditCard(msgspec.Struct, rename="camel"):
    """A card to be stored."""

    card_user_id: UserRef
    card_holder_name: Holder
    card_number: Annotated[Raw, _digits("^[0-9]{13,19}$", "13 to 19 digits that pass Luhn's check", 4242424242424242)]
    expire_date: Annotated[str, Meta(description="12/27, 12/2027, 1227 or 2027-12", examples=["12/30"])]
    cvv: Annotated[Raw, _digits("^[0-9]{3}$", "3 digits: looked at, and never kept", 123)]
    money: Annotated[Raw, _amount("What is on it, with the currency's decimals at most", 500.00)]

    def to_command(self, currency: str, today: tuple[int, int]) -> AddCard:
        """The command for the engine. Raises `PaymentMethodRefused` or `AmountRefused`."""
        pan = parse_number(_text(self.card_number, "cardNumber"))
        if _NUMBER_LIKE.search(self.card_holder_name):
            # It is kept and shown in clear.
            raise PaymentMethodRefused("cardHolderName must be a name, not a number", field="cardHolderName")
        month, year = parse_expire_date(self.expire_date, today=today)
        # JSON has no numbers with leading zeros: 012 comes as 12.
        check_cvv(_text(self.cvv, "cvv").zfill(3) if bytes(self.cvv).isdigit() else _text(self.cvv, "cvv"))
        money = _money(self.money, currency, "money")
        return AddCard(self.card_user_id, self.card_holder_name, pan, month, year, money)

    def __repr__(self) -> str:
        return "AddCreditCard(…)"


class Product(msgspec.Struct, rename="camel"):
    """So many of one product. What was refunded is known here, not told."""

    product_id: Annotated[Ref, Meta(examples=["prod-1"])]
    price: Price
    quantity: Annotated[int, Meta(ge=1, le=QUANTITY_MAX)] = 1
    seller_id: Annotated[str, Meta(max_length=128)] = ""


class Pay(msgspec.Struct, rename="camel"):
    """A checkout to be paid."""

    user_id: UserRef
    basket_id: Annotated[Ref, Meta(examples=["basket-1"])]
    credit_card_id: CardRef
    shipment_id: Annotated[Ref, Meta(examples=["shipment-1"])]
    products: Annotated[list[Product], Meta(min_length=1, max_length=PRODUCTS_MAX)]
    address: Address
    total_price: Annotated[Raw, _amount("The sum of quantity times price", 29.99, above=True)]
    is_gift: bool = False

    def to_command(self, checkout_id: str, currency: str) -> PayCheckout:
        """The command for the engine. Raises `AmountRefused`."""
        lines = tuple(
            Line(
                product.product_id,
                product.quantity,
                _money(product.price, currency, "products.price").minor,
                product.seller_id,
            )
            for product in self.products
        )
        total = _money(self.total_price, currency, "totalPrice")
        if not total.minor:
            raise AmountRefused("totalPrice must be greater than 0", field="totalPrice")
        return PayCheckout(
            checkout_id, self.user_id, self.basket_id, self.credit_card_id, self.shipment_id, lines, self.address,
            self.is_gift, total, context.current(),
        )  # fmt: skip


class CardView(msgspec.Struct, rename="camel"):
    """A stored card."""

    id: CardRef
    card_user_id: UserRef
    card_holder_name: Holder
    card_number: Masked
    expire_date: Expiry
    money: Annotated[Raw, _amount("What is on it", 500.00)]
    brand: Annotated[str, Meta(examples=["visa"])]
    created_at: Time


class CardAnswer(msgspec.Struct):
    """A card, and what was done with it."""

    message: Annotated[str, Meta(examples=["Credit card found"])]
    card: CardView


class ProductView(msgspec.Struct, rename="camel"):
    """A product that was paid for, and how much of it was refunded."""

    product_id: Annotated[str, Meta(examples=["prod-1"])]
    quantity: Annotated[int, Meta(examples=[1])]
    price: Price
    is_refunded: Annotated[bool, Meta(examples=[False])]
    refunded_quantity: Annotated[int, Meta(ge=0, examples=[0])]
    seller_id: Annotated[str, Meta(examples=[""])]


class VaultPaymentView(msgspec.Struct, rename="camel"):
    """A payment of a checkout."""

    id: PaymentRef
    user_id: UserRef
    checkout_id: Annotated[str, Meta(examples=["checkout-1"])]
    basket_id: Annotated[str, Meta(examples=["basket-1"])]
    credit_card_id: CardRef
    shipment_id: Annotated[str, Meta(examples=["shipment-1"])]
    products: list[ProductView]
    address: Address
    is_gift: Annotated[bool, Meta(examples=[False])]
    status: Annotated[str, Meta(extra_json_schema={"enum": ["Completed", "Failed", "PartiallyRefunded", "Refunded"]})]
    total_price: Annotated[Raw, _amount("The sum of quantity times price", 29.99)]
    refunded: Annotated[bool, Meta(description="Whether all of it was refunded", examples=[False])]
    card_holder_name: Annotated[str, Meta(examples=["Jo Doe"])]
    card_number: Masked
    expire_date: Expiry
    payment_status: Annotated[bool, Meta(description="Whether the money was taken", examples=[True])]
    created_at: Time
    updated_at: Time


class PaymentAnswer(msgspec.Struct):
    """A payment, and what was done with it."""

    message: Annotated[str, Meta(examples=["Payment found"])]
    payment: VaultPaymentView


_add = msgspec.json.Decoder(AddCreditCard)
_pay = msgspec.json.Decoder(Pay)
_string = msgspec.json.Decoder(str)


def wanted_card(body: bytes, currency: str, today: tuple[int, int]) -> AddCard:
    """The body of `POST /add`. Raises `PaymentMethodRefused`, `AmountRefused` or `HttpRefused`."""
    return decode(body, _add).to_command(currency, today)


def wanted_payment(body: bytes, checkout_id: str, currency: str) -> PayCheckout:
    """The body of `POST /pay/:checkoutId`. Raises `AmountRefused` or `HttpRefused`."""
    if len(checkout_id) > CHECKOUT_LENGTH_MAX or not checkout_id.isprintable():
        problem = f"checkoutId must be 1 to {CHECKOUT_LENGTH_MAX} printable characters"
        raise HttpRefused(422, "INVALID_REQUEST", problem, details={"field": "checkoutId"})
    return decode(body, _pay).to_command(checkout_id, currency)


def card_view(card: StoredCard) -> CardView:
    """The card as its owner sees it."""
    return CardView(
        id=card.id,
        card_user_id=card.user_id,
        card_holder_name=card.holder,
        card_number=card.masked,
        expire_date=card.expiry,
        money=_raw(card.balance_minor, card.currency),
        brand=card.brand,
        created_at=rfc3339(card.created_ms),
    )


def payment_view(payment: Payment, purchase: Purchase) -> VaultPaymentView:
    """The payment as its owner sees it."""
    currency = payment.amount.currency
    return VaultPaymentView(
        id=payment.id,
        user_id=payment.user_id,
        checkout_id=purchase.checkout_id,
        basket_id=purchase.basket_id,
        credit_card_id=purchase.card_id,
        shipment_id=purchase.shipment_id,
        products=[_product_view(line, currency) for line in purchase.lines],
        address=purchase.address,
        is_gift=purchase.is_gift,
        status=WORDS[payment.status],
        total_price=_raw(payment.amount.minor, currency),
        refunded=payment.status is Status.REFUNDED,
        card_holder_name=purchase.holder,
        card_number=masked(purchase.last4),
        expire_date=expiry_text(purchase.expiry_month, purchase.expiry_year),
        payment_status=bool(payment.captured_minor),
        created_at=rfc3339(payment.created_ms),
        updated_at=rfc3339(updated_ms(payment)),
    )


def _product_view(line: Line, currency: str) -> ProductView:
    return ProductView(
        product_id=line.product_id,
        quantity=line.quantity,
        price=_raw(line.price_minor, currency),
        is_refunded=not line.left,
        refunded_quantity=line.refunded_quantity,
        seller_id=line.seller_id,
    )


def _raw(minor: int, currency: str) -> Raw:
    return Raw(Money(minor, currency).text.encode())


def _text(raw: Raw, field: str) -> str:
    """The digits of a JSON number or string. Never quotes them."""
    text = bytes(raw).decode()
    if not text.startswith('"'):
        return text
    if len(text) > _NUMBER_MAX:
        raise PaymentMethodRefused(f"{field} is too long", field=field)
    return _string.decode(text)


def _money(raw: Raw, currency: str, field: str) -> Money:
    """An amount of 0 or more. Raises `AmountRefused` naming the field."""
    text = bytes(raw).decode()
    if _ZERO.match(text):
        return Money(0, currency)
    if text.startswith("-"):
        raise AmountRefused(f"{field} must not be negative", field=field)
    try:
        return parse_amount(text, currency)
    except AmountRefused as refused:
        raise AmountRefused(str(refused).replace("amount", field, 1), field=field) from None
