# mmpu beside vLLM on CUDA, for training with vLLM's rollouts and for serving judges. docs/installing.md; not built by CI.
#
#   docker build -f docker/cuda.Dockerfile -t mmpu:cuda .
ARG VLLM=v0.32.0
FROM vllm/vllm-openai:${VLLM}
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY mmpu ./mmpu
COPY tasks ./tasks
COPY judges ./judges
COPY configs ./configs
COPY leaderboards ./leaderboards
# vLLM pins torch and a window of transformers: what is there stays, or the build fails.
RUN python3 -m pip list --format=freeze >/tmp/there.txt \
    && python3 -m pip install --no-cache-dir -c /tmp/there.txt ".[math,datasets]" \
    && rm /tmp/there.txt
# Users with the number 1000 are there already in some of these images.
RUN useradd --uid 10001 --create-home --no-log-init mmpu && install -d -o mmpu -g mmpu /work
ENV TOKENIZERS_PARALLELISM=false
USER mmpu
WORKDIR /work
ENTRYPOINT ["mmpu"]
CMD ["--help"]
