"""A day of rounds to replay: one a minute, played by three players in turn."""

from datetime import UTC, date, datetime, timedelta

from millrace.replay.schedule import Event

TABLE = "bronze.plays"
SHOWN = ("player_now:rounds_now_1h", "player_now:seconds_now_10m")
PLAYERS = tuple(f"{number:08x}-0000-4000-8000-{number:012x}" for number in range(3))
ROUNDS = 900


def events(day: date) -> list[Event]:
    """The rounds of the day, and one of the day before."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return [_round(begin + timedelta(minutes=minute), minute) for minute in range(-1, ROUNDS)]


def _round(at: datetime, number: int) -> Event:
    player = PLAYERS[number % len(PLAYERS)]
    value = {
        "round": f"{at:%Y%m%d}-{number}",
        "player": player,
        "game": ("go", "chess")[number % 2],
        "mode": "ranked" if number % 5 else None,
        "ended_at": at.isoformat(),
        "seconds": number % 700,
        "stake": number / 4,
    }
    return Event(at, player, value, {"player": player})
