"""A web application of one page."""
