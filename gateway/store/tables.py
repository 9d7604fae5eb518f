"""The tables of a gateway's database, as the newest migration leaves them.

Times are whole seconds since 1970, UTC. JSON is text in ASCII: it holds what a database's own text may not (NUL,
halves of surrogate pairs).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Date, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

KEYS = Table(
    "keys",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("prefix", String(40), nullable=False),  # what lists show of the key
    Column("hash", String(64), nullable=False, unique=True),  # SHA-256: a random key needs no slow hash
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("requests_per_minute", Integer),  # null: no limit
    Column("tokens_per_minute", Integer),
)

USAGE = Table(
    "usage",
    METADATA,
    Column("key_id", String(40), primary_key=True),
    Column("day", Date, primary_key=True),  # UTC
    Column("model", String(300), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
)

RESPONSES = Table(
    "responses",
    METADATA,
    Column("id", String(80), primary_key=True),
    Column("owner", String(40), nullable=False),  # a key's id, empty where no key was asked for
    Column("created_at", BigInteger, nullable=False),
    Column("model", String(300), nullable=False),
    Column("previous", String(80)),
    Column("size", BigInteger, nullable=False),  # of both texts, in bytes
    Column("body", Text, nullable=False),
    Column("input", Text, nullable=False),
    Index(None, "owner", "created_at", "id", "size"),  # how much an owner has stored is told by it alone
    Index(None, "created_at"),
)
