# `just` lists these; `.ci/run` is the whole.

# unit and integration tests, no root
test:
    cargo test --workspace --locked

# format, then lint as CI does
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets --locked -- -D warnings

# run from the sources: just run --output json
run *args:
    cargo run --release --locked -- run {{args}}

# real faults on this machine, as root
lab *filter:
    cargo test --release --locked --test lab -- --test-threads=1 --nocapture {{filter}}

# one fuzz target: just fuzz event_text 60
fuzz target seconds="60":
    mkdir -p fuzz/corpus/{{target}} fuzz/artifacts/{{target}}
    cd fuzz && cargo run --release --locked --bin {{target}} -- -max_total_time={{seconds}} \
      -artifact_prefix=artifacts/{{target}}/ corpus/{{target}} seeds/{{target}}

# everything that must hold before a merge
ci:
    .ci/run
