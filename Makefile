# `make demo` shows it, `make test` proves it, `make bench` measures it.
.PHONY: demo test bench chaos fuzz plugins prerequisites lint eval

PLUGINS := echo transcribe
GUEST_TARGET := target/guests
WASM := $(GUEST_TARGET)/wasm32-wasip2/guest

# Audio to notes on the embedded broker; AUDIO=file.wav takes your own.
demo: plugins
	cargo build --release --locked -p warren
	@cargo run --quiet --release --locked -p warren -- demo $(AUDIO)

# Every plugin as a folder that a host serves: target/plugins/<name>.
plugins: prerequisites
	cargo build --locked --profile guest --target wasm32-wasip2 --target-dir $(GUEST_TARGET) \
		$(foreach p,$(PLUGINS),-p warren-plugin-$(p))
	@for p in $(PLUGINS); do \
		mkdir -p target/plugins/$$p && \
		cp plugins/$$p/plugin.toml $(WASM)/$$p.wasm target/plugins/$$p/ || exit 1; \
	done
	sh plugins/transcribe/fetch-model.sh target/plugins/transcribe

test: prerequisites
	cargo fmt --all --check
	@sh tests/run.sh

bench: plugins
	sh tests/bench/run.sh

# Hosts are killed at random while they work; the last lines say what that cost. The defaults take
# about a quarter of an hour. SEED= repeats the choices of an earlier run.
chaos: prerequisites
	cargo build --release --locked --workspace --bin warren --bench chaos
	@JOBS="$(JOBS)" KILLS="$(KILLS)" SEED="$(SEED)" \
		cargo bench --quiet --locked --workspace --bench chaos

# One decoder of untrusted bytes, on one core: TARGET= is a file in tests/fuzz/fuzz_targets.
fuzz:
	@sh tests/fuzz/run.sh "$(TARGET)" "$(SECONDS)"

# Note F1 of `transcribe` against the reference implementation; needs fluidsynth and a sound font.
eval: plugins
	cargo build --release --locked -p warren
	sh tests/eval/run.sh --warren target/release/warren --plugin target/plugins/transcribe

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

prerequisites:
	@sh tests/prerequisites.sh
