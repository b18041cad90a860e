"""The Dagster UI below `/dagster`, for the slot that `app.py` leaves it. Only this file imports Dagster.

Dagster's own server is the base; what it leaves open is closed here and in `gate.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_graphql.schema.errors import GrapheneUnauthorizedError
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount

from maestro_dagster.api.gate import UI
from maestro_dagster.api.refusal import Refusals
from maestro_dagster.api.static import HashedFiles
from maestro_dagster.workers.instance import create_storage, open_instance

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_HASHED = f"{UI}/_next/static"
_POLL_MS = 2000  # between looks of a page at what is shown live
_SMALLEST_PACKED = 1000  # bytes
_LEVEL = 5
_STATEMENT_MS, _RECYCLE_SECONDS, _POOL_OVERFLOW = 15_000, 3600, 20  # as stock Dagster sets them
# These render any notebook of this machine that the caller names, and write into the event log what no run
# has made: nobody could tell it from what runs made.
_CLOSED_ROUTES = ("/notebook", "/dagit/notebook", "/report_asset_")
_CLOSED_MUTATION = "reportRunlessAssetEvents"  # the same by GraphQL
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self'; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; frame-src 'none'; frame-ancestors 'none'; "
    "form-action 'self'"
)


class MaestroWebserver(DagsterWebserver[Any, Any]):
    """Dagster's, with a stricter policy for its pages; no route reads the disk or makes events up."""

    def make_csp_header(self, nonce: str) -> str:
        return f"{super().make_csp_header(nonce).rstrip('; ')}; {_POLICY}"

    def make_security_headers(self) -> dict[str, str]:
        return {
            **super().make_security_headers(),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "same-origin",
            "X-Frame-Options": "DENY",
        }

    def build_graphql_schema(self) -> Any:
        schema: Any = super().build_graphql_schema()
        schema.graphql_schema.mutation_type.fields[_CLOSED_MUTATION].resolve = _refuse_report
        return schema

    async def download_debug_file_endpoint(self, request: Request) -> Any:
        """Dagster's fails where there is no such run."""
        with self.request_context(request) as context:
            if context.instance.get_run_by_id(request.path_params["run_id"]) is None:
                raise HTTPException(HTTPStatus.NOT_FOUND)
        return await super().download_debug_file_endpoint(request)

    async def download_captured_logs_endpoint(self, request: Request) -> Any:
        """Dagster's fails where a path leads out of its folder, or names no file."""
        try:
            return await super().download_captured_logs_endpoint(request)
        except ValueError:
            raise HTTPException(HTTPStatus.NOT_FOUND) from None

    def build_routes(self) -> list[BaseRoute]:
        return [_without_closed(route) for route in super().build_routes()]  # type: ignore[no-untyped-call]


def _without_closed(route: BaseRoute) -> BaseRoute:
    if not (isinstance(route, Mount) and route.path == UI):
        return route
    left = [one for one in route.routes if not getattr(one, "path", "").startswith(_CLOSED_ROUTES)]
    return Mount(UI, routes=left)


def _refuse_report(*_: object, **__: object) -> GrapheneUnauthorizedError:
    return GrapheneUnauthorizedError(message="events of assets come from runs only")  # type: ignore[no-untyped-call]


@contextmanager
def open_ui(home: Path, workspace: Path) -> Iterator[ASGIApp]:
    """The UI of the instance in `home` with the code locations of a workspace file, until the block ends."""
    create_storage(home)
    with open_instance(home) as instance:
        instance.optimize_for_webserver(_STATEMENT_MS, _RECYCLE_SECONDS, _POOL_OVERFLOW)
        with WorkspaceProcessContext(
            instance,
            version=__version__,
            workspace_load_target=WorkspaceFileTarget(paths=[str(workspace)]),
        ) as context:
            pages = MaestroWebserver(context, UI, _POLL_MS).create_asgi_app()
            packed = GZipMiddleware(pages, _SMALLEST_PACKED, _LEVEL)
            yield _split(Refusals(packed), HashedFiles(Path(pages_folder()) / "_next" / "static", _HASHED))


def pages_folder() -> str:
    """Where Dagster's package keeps its built pages."""
    import dagster_webserver

    return str(Path(dagster_webserver.__file__).parent / "webapp" / "build")


def _split(pages: ASGIApp, files: ASGIApp) -> ASGIApp:
    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        hashed = scope["type"] == "http" and scope["path"].startswith(f"{_HASHED}/")
        await (files if hashed else pages)(scope, receive, send)

    return choose
