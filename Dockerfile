# syntax=docker/dockerfile:1

# The version is that of rust-toolchain.toml, which is not in the context: rustup would fetch its own copy.
FROM rust:1.95.0-bookworm AS build
WORKDIR /source
COPY . .
# With `ottla store create`, so that the image can make its own bucket.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package ottla --features aws-sdk \
    && install -D --strip target/release/ottla /image/usr/local/bin/ottla \
    && install -d -o 65532 -g 65532 /image/var/lib/ottla

# The C library of the stage before, certificates, and nothing else: no shell, no packages. A hook that attaches volumes
# (docs/operations.md) needs its tools in an image of its own, FROM this one's binary.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Ottla" \
      org.opencontainers.image.description="A Kafka-compatible broker on object storage" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/ /
# `nonroot`, as a number: what forbids root looks at nothing else.
USER 65532:65532
# For a store or a write-ahead log in a directory; brokers on a bucket keep nothing here.
WORKDIR /var/lib/ottla
ENV OTTLA_LISTEN=0.0.0.0:9092
EXPOSE 9092
STOPSIGNAL SIGTERM
# Whether it answers clients. Where it listens elsewhere, OTTLA_BOOTSTRAP says where.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["/usr/local/bin/ottla", "topic", "list"]
ENTRYPOINT ["/usr/local/bin/ottla"]
CMD ["serve"]
