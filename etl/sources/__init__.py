"""Where rows come from: the landing zone that a shop's systems fill, and the sample that fills it for a demo."""
