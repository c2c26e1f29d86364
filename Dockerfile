# GRec on a CUDA image that brings torch. Any image with Python 3.11 or newer and torch 2.6 or newer will do:
#   docker build -t grec .
#   docker build -t grec --build-arg BASE_IMAGE=pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime .
ARG BASE_IMAGE=pytorch/pytorch:2.9.0-cuda12.8-cudnn9-runtime
FROM ${BASE_IMAGE}

# The image's Python is used as it is: scripts/env.sh makes no environment inside the container.
ENV GREC_PYTHON=python3 DS_BUILD_OPS=0 PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1

WORKDIR /grec
COPY constraints.txt requirements.txt ./
# The image's torch fits its CUDA, so it stays: the pin of torch is left out.
RUN grep -v '^torch==' constraints.txt >/tmp/constraints.txt \
 && python3 -m pip install -c /tmp/constraints.txt -r requirements.txt pytest pytest-xdist pytest-timeout hypothesis ruff

COPY . .
CMD ["bash"]
