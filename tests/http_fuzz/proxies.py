"""nginx and HAProxy in front of the API, set up to pass on as much as they can and to share connections."""

import asyncio
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.parts import eventually, free_port

# The recipe for websockets that everybody copies, one connection for all clients, bodies passed on as they come.
_NGINX = """
daemon off; master_process off; error_log {folder}/nginx-error.log crit; pid {folder}/nginx.pid;
events {{ worker_connections 512; }}
http {{
  access_log off; ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;
  large_client_header_buffers 4 64k;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream api {{ server 127.0.0.1:{api_port}; keepalive 2; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://api; proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
      proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade; proxy_set_header Expect $http_expect;
      proxy_read_timeout 5s; proxy_next_upstream off;
    }}
  }}
}}
"""
_HAPROXY = """
global
  maxconn 512
defaults
  mode http
  timeout connect 5s
  timeout client 10s
  timeout server 5s
  timeout http-request 5s
  option http-keep-alive
  option accept-invalid-http-request
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  default_backend api
backend api
  option accept-invalid-http-response
  server api 127.0.0.1:{api_port} pool-max-conn 4
"""


@asynccontextmanager
async def nginx(folder: Path, api_port: int) -> AsyncIterator[int]:
    """Yields the port of an nginx in front of the API."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, api_port=api_port))
    async with _proxy("nginx", "-p", str(folder), "-c", str(config), port=port):
        yield port


@asynccontextmanager
async def haproxy(folder: Path, api_port: int) -> AsyncIterator[int]:
    """Yields the port of an HAProxy in front of the API."""
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, api_port=api_port))
    async with _proxy("haproxy", "-db", "-f", str(config), port=port):
        yield port


@asynccontextmanager
async def _proxy(program: str, *arguments: str, port: int) -> AsyncIterator[None]:
    found = shutil.which(program, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        raise RuntimeError(f"there is no {program} here; apt-get install {program}")
    process = await asyncio.create_subprocess_exec(found, *arguments, stdout=DEVNULL, stderr=DEVNULL)

    async def is_up() -> bool:
        if process.returncode is not None:
            raise RuntimeError(f"{program} ended with {process.returncode}; run it by hand: {found} {arguments}")
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    try:
        await eventually(is_up)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
