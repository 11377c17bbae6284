"""Where generations live: a folder of sqlite files, a Redis, or a PostgreSQL. All three keep `features.generation`'s promises; `MILLRACE_ONLINE` says which one is used."""
