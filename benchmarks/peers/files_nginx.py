"""nginx with one worker: files_nginx.py ROOT WORK HOST:PORT; its own files go into WORK."""

import os
import shutil
import sys
from pathlib import Path

root, work, address = sys.argv[1:]
nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
if nginx is None:
    sys.exit("nginx is not installed")
Path(work, "nginx.conf").write_text(
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
os.execv(nginx, [nginx, "-p", work, "-c", f"{work}/nginx.conf"])
