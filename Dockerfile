# GRec on an image that brings CUDA and torch; docs/container_readme.md says more.
#   docker build -t grec --build-arg COMMIT="$(git describe --always --dirty)" .
#   docker build -t grec --build-arg BASE_IMAGE=IMAGE:TAG .    any with Python 3.11 or newer and torch 2.6 or newer
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime@sha256:6acf597eeb8e376a96580dde4952f37cc017fef732bb40bfc73f28f25e3f64b4
FROM ${BASE_IMAGE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# The image's Python is used as it is: scripts/env.sh makes no environment inside the container.
ENV GREC_PYTHON=python3 DS_BUILD_OPS=0 PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /grec
COPY constraints.txt requirements.txt pyproject.toml ./
# The image's torch fits its CUDA, so it stays: its version takes the place of ours.
RUN python3 -c 'import torch; print(f"torch=={torch.__version__}")' >/tmp/constraints.txt \
 && grep -v '^torch==' constraints.txt >>/tmp/constraints.txt \
 && python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"], sep="\n")' >/tmp/dev.txt \
 && python3 -m pip install -c /tmp/constraints.txt -r requirements.txt -r /tmp/dev.txt \
 && rm /tmp/constraints.txt /tmp/dev.txt

RUN useradd --uid 10001 --create-home --no-log-init grec
ENV HOME=/home/grec USER=grec HF_HOME=/grec/models/hub PYTHONDONTWRITEBYTECODE=1

COPY . .
# Any user may run it (--user, or GREC_UID of compose), however closed the checkout is: the code can be read, and home and
# the folders that runs write to are open to all. After COPY, which gives folders the rights that they have outside.
RUN chmod -R a+rX . \
 && mkdir -p data models output results log \
 && chmod 1777 /home/grec data models output results log
# A run records the commit, and .git stays outside.
ARG COMMIT=unknown
ENV GREC_COMMIT=${COMMIT}
USER 10001:10001
CMD ["bash"]
