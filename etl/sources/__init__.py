"""Where rows come from: the landing zone that a shop's systems fill."""
