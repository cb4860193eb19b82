# docker build -t mockchat . && docker run --rm -p 127.0.0.1:8000:8000 mockchat
FROM python:3.13-slim

WORKDIR /mockchat
COPY setup.cfg pyproject.toml README.md LICENSE server.py requester.py ./
COPY mockchat mockchat
COPY data/sample.json data/
RUN pip install --no-cache-dir --editable .

USER 65534:65534
EXPOSE 8000
# Docker asks now and then whether the port is open: it is once the recordings are read.
HEALTHCHECK --interval=5s --timeout=3s --start-period=2m \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000), 2)"]
CMD ["python", "server.py", "--host", "0.0.0.0"]
