"""Columns that several tables share."""

from contracts.model import STRING, Column, Pii

PLAYER = Column("player", STRING, "Player, a UUID", required=True, pii=Pii.PSEUDONYM, pattern="[0-9a-f-]{36}")
GAME = Column("game", STRING, "Game", required=True)
