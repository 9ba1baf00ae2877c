#!/bin/sh
# Load MNIST, serve it, and search over gRPC for the five images most similar to a handwritten nine.
set -eu

query=mnist/test/9
log=$(mktemp)
service=

stop() {
    [ -z "$service" ] || { kill "$service" 2>/dev/null && wait "$service" 2>/dev/null; } || true
    rm -f "$log"
}
trap stop EXIT

echo "== ingest load mnist"
ingest load mnist

echo "== encoder-service serve"
encoder-service serve --port 0 >"$log" 2>&1 &
service=$!
while ! address=$(sed -n 's/^serving on //p' "$log" | grep .); do
    kill -0 "$service" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.05
done
echo "serving on $address"

echo "== encoder-service search $query --address $address --gallery mnist --out demo.png"
encoder-service search "$query" --address "$address" --gallery mnist --out demo.png

cat <<'END'

demo.png shows the query beside its hits. Next, activate the environment with `. .venv/bin/activate` and try:
  encoder-service search mnist/test/0          search with another image that is not in the gallery
  encoder-service search mnist/train/0         find images similar to a stored image
  ingest list                                  list the galleries
  encoder-service serve --http-port 8080       start the service, and draw a digit at http://127.0.0.1:8080/
  make test                                    run the tests
END
