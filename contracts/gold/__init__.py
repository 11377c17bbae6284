"""Gold: feature rows. `event_timestamp` is the midnight (UTC) at which a row becomes knowable; a window of w days at t covers [t - w days, t).

A row is written at every midnight at which the content of one of its windows changes, because a purchase enters or one leaves. The newest row at
or before t is therefore right at every t, on idle days too, and feature views need no ttl.
"""

from contracts.model import TIMESTAMP, Column, Rule

EVENT_TIMESTAMP = Column("event_timestamp", TIMESTAMP, "Midnight at which the row becomes knowable", required=True)
AT_MIDNIGHT = Rule("at_midnight", "event_timestamp = date_trunc('day', event_timestamp)", "event_timestamp is not a midnight")
