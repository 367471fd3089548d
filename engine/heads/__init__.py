"""Heads: what would the logits be if the activation were altered, in the cheapest exact way."""

from __future__ import annotations

from camrt.engine.heads.base import Head, QueryContext
from camrt.engine.heads.factored import FactoredHead
from camrt.engine.heads.generic import GenericHead

__all__ = ["FactoredHead", "GenericHead", "Head", "QueryContext"]
