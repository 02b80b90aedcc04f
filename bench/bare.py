"""What the daemon's intake is compared with: a bare aiohttp handler that parses the same JSON, and nothing else."""

import sys

from aiohttp import web


async def _alerts(request: web.Request) -> web.Response:
    alerts = (await request.json())["alerts"]
    return web.json_response({"accepted": len(alerts)})


async def _healthz(_request: web.Request) -> web.Response:
    return web.json_response({})


def main() -> None:
    """Serve on the port that is the first argument."""
    app = web.Application()
    app.router.add_post("/api/v1/alerts", _alerts)
    app.router.add_get("/healthz", _healthz)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
