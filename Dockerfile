# One image for both programs: `peer start …`, `gateway start …`. CPU build; for CUDA, base it on an image with CUDA.
FROM python:3.11-slim
WORKDIR /corolla
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gateway gateway
COPY peer peer
COPY shared shared
COPY webui webui
RUN pip install --no-cache-dir --constraint constraints.txt '.[postgresql]'
RUN useradd --create-home corolla && mkdir /models /state && chown corolla /models /state
USER corolla
VOLUME ["/models", "/state"]
ENV COROLLA_CACHE_DIR=/models COROLLA_STATE_DIR=/state
