#!/bin/sh
# Loads MNIST, serves it, and asks over gRPC for the five pictures that look most like the article's query.
set -eu

query=mnist/test/7
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

echo "== encoder-service search $query --address $address --name mnist --out demo.png"
encoder-service search "$query" --address "$address" --name mnist --out demo.png

cat <<END

demo.png shows the query beside its hits. Type next, after: . .venv/bin/activate
  encoder-service search mnist/test/0          another digit that the gallery has not seen
  encoder-service search mnist/train/0         more like a stored one
  ingest list                                  the galleries
  encoder-service serve                        the service, for clients in any language
  make test                                    the tests
END
