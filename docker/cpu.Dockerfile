# mmpu on a CPU, with mathematics and data sets. docs/installing.md; not built by CI.
#
#   docker build -f docker/cpu.Dockerfile -t mmpu:cpu .
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mmpu ./mmpu
COPY tasks ./tasks
COPY judges ./judges
COPY configs ./configs
COPY leaderboards ./leaderboards
# torch first: the index's own is a CUDA build of several gigabytes.
RUN python -m venv /opt/mmpu \
    && /opt/mmpu/bin/pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
    && /opt/mmpu/bin/pip install --no-cache-dir -c constraints.txt ".[math,datasets]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/mmpu /opt/mmpu
RUN useradd --uid 1000 --create-home mmpu && install -d -o mmpu -g mmpu /work
ENV PATH=/opt/mmpu/bin:$PATH \
    TOKENIZERS_PARALLELISM=false
USER mmpu
WORKDIR /work
ENTRYPOINT ["mmpu"]
CMD ["--help"]
