"""nginx with one worker: files_nginx.py ROOT HOST:PORT."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

root, address = sys.argv[1:]
nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
if nginx is None:
    sys.exit("nginx is not installed")
work = Path(tempfile.mkdtemp(prefix="nginx-"))
(work / "nginx.conf").write_text(
    f"""daemon off; master_process off; pid {work}/pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; etag on; default_type application/octet-stream;
    client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work};
    uwsgi_temp_path {work}; scgi_temp_path {work};
    keepalive_requests 100000000;
    server {{ listen {address}; root {root}; }}
}}
"""
)
os.execv(nginx, [nginx, "-p", str(work), "-c", str(work / "nginx.conf")])
