"""moto's S3 server on 127.0.0.1: s3_server.py PORT.

Its threads look whether an object is there and create it in two steps, so on a busy machine two conditional creates can
both succeed. Here they go through one at a time.
"""

import io
import os
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import MotoRequestHandler
from werkzeug.serving import run_simple


class OneCreateAtATime:
    def __init__(self, application):
        self.application, self.lock = application, threading.Lock()

    def __call__(self, environ, start_response):
        if "HTTP_IF_NONE_MATCH" not in environ:
            return self.application(environ, start_response)
        # The body first: whoever sends it slowly keeps nobody waiting.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        with self.lock:
            return list(self.application(environ, start_response))


if __name__ == "__main__":
    port = int(sys.argv[1])
    os.environ["MOTO_PORT"] = str(port)
    application = OneCreateAtATime(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)
