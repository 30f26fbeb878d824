"""Serve the page on port 8000."""

from wsgiref.simple_server import make_server


def greet(environment, start):
    """Answer every request with a greeting."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"Hello from {environment['PATH_INFO']}\n".encode()]


if __name__ == "__main__":
    make_server("", 8000, greet).serve_forever()
